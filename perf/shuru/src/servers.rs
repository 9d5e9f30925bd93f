//! The two servers, each a process of its own with a directory of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use shuru_store::{ChunkIndex, start_cas_nbd_server};

use crate::client::Client;

pub const CHUNK: u64 = 64 << 10;

/// A server that is measured.
pub trait Server {
    fn name(&self) -> &'static str;
    fn connect(&self) -> Result<Client>;
    /// Keeps what the disk is now, durably, with equal chunks once.
    fn checkpoint(&mut self, number: usize) -> Result<()>;
    fn process(&self) -> u32;

    /// Resident bytes of the process.
    fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()))?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("RssAnon")?;
        let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kib << 10)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let ended = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

/// `ringnbd serve` of a store with one image.
pub struct Ours {
    binary: PathBuf,
    directory: PathBuf,
    child: Child,
}

impl Ours {
    /// A store with an empty image, or one that is a clone of a checkpoint, which has what a raw file has.
    pub fn start(binary: &Path, directory: &Path, size: u64, from: Option<&Path>) -> Result<Self> {
        let store = directory.join("store");
        run(Command::new(binary).args(["store", "init", "--compress", "lz4"]).arg(&store))?;
        let image = |name: &str| store.join(name);
        match from {
            None => {
                run(Command::new(binary).args(["image", "create"]).arg(image("vm")).arg(size.to_string()))?
            }
            Some(raw) => {
                run(Command::new(binary)
                    .args(["image", "create"])
                    .arg(image("golden"))
                    .arg("--from")
                    .arg(raw))?;
                run(Command::new(binary).args(["image", "checkpoint"]).arg(image("golden@1")))?;
                run(Command::new(binary).args(["image", "clone"]).arg(image("golden@1")).arg(image("vm")))?;
            }
        }
        Self::serve(binary, directory)
    }

    /// A store that is there.
    pub fn serve(binary: &Path, directory: &Path) -> Result<Self> {
        let exported = format!("store:{}", directory.join("store").display());
        let child = Command::new(binary)
            .args(["serve", &exported, "--shards", "1", "--control"])
            .arg(format!("unix:{}", directory.join("control").display()))
            .arg("--unix")
            .arg(directory.join("socket"))
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log"))?)
            .spawn()?;
        Ok(Self { binary: binary.to_owned(), directory: directory.to_owned(), child })
    }
}

impl Server for Ours {
    fn name(&self) -> &'static str {
        "ringnbd"
    }

    fn connect(&self) -> Result<Client> {
        Client::connect(&self.directory.join("socket"), "vm")
    }

    fn checkpoint(&mut self, number: usize) -> Result<()> {
        let snapshot = self.directory.join("store").join(format!("vm@c{number}"));
        run(Command::new(&self.binary).args(["image", "checkpoint"]).arg(snapshot))
    }

    fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// shuru-store, served by this program in another process: see [`serve_shuru`].
pub struct Shuru {
    directory: PathBuf,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Shuru {
    /// An empty disk, or that of an index.
    pub fn start(directory: &Path, size: u64, index: Option<&ChunkIndex>) -> Result<Self> {
        File::create(directory.join("flat"))?.set_len(size)?;
        if let Some(index) = index {
            index.save(&path_text(directory, "index"))?;
        }
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve-shuru", &directory.to_string_lossy(), &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut server = Self { directory: directory.to_owned(), child, orders, answers };
        server.wait("listening")?;
        Ok(server)
    }

    fn wait(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.trim() == word, "shuru-store: {line:?}");
        Ok(())
    }
}

impl Server for Shuru {
    fn name(&self) -> &'static str {
        "shuru-store"
    }

    fn connect(&self) -> Result<Client> {
        Client::connect(&self.directory.join("socket"), "export")
    }

    fn checkpoint(&mut self, number: usize) -> Result<()> {
        writeln!(self.orders, "{number}")?;
        self.orders.flush()?;
        self.wait("saved")
    }

    fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Shuru {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn path_text(directory: &Path, name: &str) -> String {
    directory.join(name).to_string_lossy().into_owned()
}

/// Serves a disk by shuru-store, and saves a checkpoint of it for each line of standard input.
pub fn serve_shuru(directory: &Path, size: u64) -> Result<()> {
    let [flat, index, socket] = ["flat", "index", "socket"].map(|name| path_text(directory, name));
    let served = start_cas_nbd_server(&flat, &directory.to_string_lossy(), &index, &socket, size)?;
    println!("listening");
    for line in std::io::stdin().lines() {
        served.save_checkpoint(&path_text(directory, &format!("saved-{}", line?)))?;
        println!("saved");
    }
    Ok(())
}
