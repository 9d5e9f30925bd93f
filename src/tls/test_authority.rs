//! An authority for tests of handshakes, and what it signs, all in PEM.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};

/// The number of [`TestAuthority::server`] and [`TestAuthority::client`].
const SERIAL: u64 = 7;

/// An authority. What it signs is good in 2025.
pub(in crate::tls) struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub(in crate::tls) pem: String,
}

impl TestAuthority {
    pub(in crate::tls) fn new(name: &str) -> Self {
        Self::signed_by(name, None)
    }

    /// One in between.
    pub(in crate::tls) fn below(&self, name: &str) -> Self {
        Self::signed_by(name, Some(self))
    }

    fn signed_by(name: &str, above: Option<&Self>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer),
            None => params.self_signed(&key),
        };
        let pem = certificate.unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names, the first of which is its own, with this number; and its key.
    pub(in crate::tls) fn sign(
        &self,
        names: &[&str],
        purpose: ExtendedKeyUsagePurpose,
        serial: u64,
    ) -> (String, String) {
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(all).unwrap();
        names.iter().take(1).for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        params.extended_key_usages = vec![purpose];
        params.serial_number = Some(serial.into());
        (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2025, 12, 31));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(in crate::tls) fn server(&self) -> (String, String) {
        self.sign(&["server", "192.0.2.1"], ExtendedKeyUsagePurpose::ServerAuth, SERIAL)
    }

    pub(in crate::tls) fn client(&self) -> (String, String) {
        self.sign(&["vm1"], ExtendedKeyUsagePurpose::ClientAuth, SERIAL)
    }

    /// The list that revokes what [`TestAuthority::server`] and [`TestAuthority::client`] make.
    pub(in crate::tls) fn revoking_all(&self) -> String {
        self.revoking(SERIAL)
    }

    /// A list that revokes a number.
    pub(in crate::tls) fn revoking(&self, serial: u64) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2026, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: date_time_ymd(2025, 1, 2),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}
