//! TLS for tests: certificates and keys, a client of rustls, and a tunnel for clients without TLS.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use ringnbd::internal::tls::rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ringnbd::internal::tls::rustls::pki_types::pem::PemObject as _;
use ringnbd::internal::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use ringnbd::internal::tls::rustls::version::TLS13;
use ringnbd::internal::tls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
};

use super::PATIENCE;

/// The shared keys of [`write_files`].
pub(crate) const KEYS: &str = "vm1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// The number of the client's certificate.
pub(crate) const CLIENT_SERIAL: u64 = 77;

/// The authority of [`write_files`].
pub(crate) type TestIssuer = Issuer<'static, KeyPair>;

/// The files that servers and clients look for, under the names that QEMU and libnbd give them.
pub(crate) fn write_files(dir: &Path) -> TestIssuer {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca-cert.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    for (file, names, purpose) in [
        ("server", &["localhost", "127.0.0.1"][..], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", &["vm1"], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        params.serial_number = (file == "client").then(|| CLIENT_SERIAL.into());
        params.extended_key_usages = vec![purpose];
        // The second is a thing of TLS 1.2, but QEMU looks for it.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        std::fs::write(dir.join(format!("{file}-cert.pem")), certificate).unwrap();
        std::fs::write(dir.join(format!("{file}-key.pem")), key.serialize_pem()).unwrap();
    }
    std::fs::write(dir.join("keys.psk"), KEYS).unwrap();
    issuer
}

/// A client that believes the authority in a directory, and has the certificate that is there.
pub(crate) fn client(dir: &Path) -> ClientConnection {
    client_speaking(dir, &TLS13)
}

fn client_speaking(dir: &Path, version: &'static SupportedProtocolVersion) -> ClientConnection {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca-cert.pem")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read("client-cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read("client-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let mut client =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    client.set_buffer_limit(None);
    client
}

/// Asks for TLS after the greeting, with the client's flags, and goes through its handshake.
pub(crate) fn start_tls(
    server: &mut UnixStream,
    flags: &[u8],
    dir: &Path,
) -> std::io::Result<ClientConnection> {
    start_tls_speaking(server, flags, dir, &TLS13)
}

/// The same with a version of TLS.
pub(crate) fn start_tls_speaking(
    server: &mut UnixStream,
    flags: &[u8],
    dir: &Path,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<ClientConnection> {
    const STARTTLS: u32 = 5;
    let mut option = flags.to_vec();
    option.extend_from_slice(b"IHAVEOPT");
    option.extend_from_slice(&STARTTLS.to_be_bytes());
    option.extend_from_slice(&0_u32.to_be_bytes());
    server.write_all(&option)?;
    let mut reply = [0; 20];
    server.read_exact(&mut reply)?;
    if reply[12..16] != 1_u32.to_be_bytes() {
        return Err(std::io::Error::other(format!("STARTTLS was refused: {reply:02x?}")));
    }
    let mut tls = client_speaking(dir, version);
    while tls.is_handshaking() {
        tls.complete_io(server)?;
    }
    while tls.wants_write() {
        tls.write_tls(server)?;
    }
    Ok(tls)
}

/// Whether clients of the tests reach their servers through a [`tunnel`].
pub(crate) fn is_tunnelled() -> bool {
    std::env::var("RINGNBD_TEST_TRANSPORT").as_deref() == Ok("tls")
}

/// The same, for what cannot be asked through it.
pub(crate) fn cannot_be_asked(why: &str) -> bool {
    if is_tunnelled() {
        eprintln!("-- not over TLS: {why}");
    }
    is_tunnelled()
}

/// A socket that speaks NBD in plain text and a server's TLS on the other side. Its clients do not notice: the greeting is passed on,
/// and their flags go before STARTTLS.
pub(crate) fn tunnel(server: &Path, dir: &Path) -> PathBuf {
    tunnel_speaking(server, dir, "tunnel.sock", &TLS13)
}

/// The same with a version of TLS, at a socket of this name.
pub(crate) fn tunnel_speaking(
    server: &Path,
    dir: &Path,
    name: &str,
    version: &'static SupportedProtocolVersion,
) -> PathBuf {
    let path = server.with_file_name(name);
    let listener = UnixListener::bind(&path).expect("bind the tunnel");
    let (server, dir) = (server.to_owned(), dir.to_owned());
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server, dir) =
                (client.expect("a client of the tunnel"), server.clone(), dir.clone());
            thread::spawn(move || pass_on(client, &server, &dir, version));
        }
    });
    path
}

fn pass_on(mut client: UnixStream, server: &Path, dir: &Path, version: &'static SupportedProtocolVersion) {
    let Ok(mut server) = UnixStream::connect(server) else { return };
    let (mut greeting, mut flags) = ([0; 18], [0; 4]);
    if server.read_exact(&mut greeting).and_then(|()| client.write_all(&greeting)).is_err() {
        return;
    }
    watch_for_the_end(&server, &client);
    if client.read_exact(&mut flags).is_err() {
        return;
    }
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let Ok(tls) = start_tls_speaking(&mut server, &flags, dir, version) else { return };
    server.set_read_timeout(None).unwrap();
    let tls = Mutex::new(tls);
    // Records leave in the order in which they are made.
    let sending = Mutex::new(server.try_clone().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| to_client(&server, &client, &tls, &sending));
        to_server(&client, &tls, &sending);
    });
}

/// A server that gives up before its client has said anything closes that client too. It says nothing before STARTTLS.
fn watch_for_the_end(server: &UnixStream, client: &UnixStream) {
    let (server, client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let byte = &mut [std::mem::MaybeUninit::uninit()];
        if !matches!(socket2::SockRef::from(&server).peek(byte), Ok(1)) {
            let _gone = client.shutdown(Shutdown::Both);
        }
    });
}

fn flush(tls: &Mutex<ClientConnection>, sending: &Mutex<UnixStream>) -> std::io::Result<()> {
    let mut socket = sending.lock().unwrap();
    let mut records = Vec::new();
    let mut tls = tls.lock().unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut records)?;
    }
    drop(tls);
    socket.write_all(&records)
}

fn to_server(mut client: &UnixStream, tls: &Mutex<ClientConnection>, sending: &Mutex<UnixStream>) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = client.read(&mut buffer).unwrap_or(0);
        match count {
            0 => tls.lock().unwrap().send_close_notify(),
            _ => tls.lock().unwrap().writer().write_all(&buffer[..count]).expect("it is buffered"),
        }
        let sent = flush(tls, sending);
        if count == 0 || sent.is_err() {
            let _gone = sending.lock().unwrap().shutdown(Shutdown::Write);
            return;
        }
    }
}

fn to_client(
    mut server: &UnixStream,
    mut client: &UnixStream,
    tls: &Mutex<ClientConnection>,
    sending: &Mutex<UnixStream>,
) {
    let (mut received, mut plain) = (vec![0; 32 << 10], Vec::new());
    // What came with the handshake is there already.
    let mut count = 0;
    loop {
        plain.clear();
        let mut locked = tls.lock().unwrap();
        let mut records = &received[..count];
        while !records.is_empty() && locked.read_tls(&mut records).is_ok() {
            if locked.process_new_packets().is_err() {
                break;
            }
            let _more_to_come = locked.reader().read_to_end(&mut plain);
        }
        let _more_to_come = locked.reader().read_to_end(&mut plain);
        let answers = locked.wants_write();
        drop(locked);
        if client.write_all(&plain).is_err() || (answers && flush(tls, sending).is_err()) {
            break;
        }
        count = server.read(&mut received).unwrap_or(0);
        if count == 0 {
            break;
        }
    }
    let _gone = client.shutdown(Shutdown::Both);
    let _gone = server.shutdown(Shutdown::Both);
}
