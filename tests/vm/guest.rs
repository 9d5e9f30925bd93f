//! A small Linux in qemu, in software emulation: Debian's kernel, an initramfs of busybox and the needed modules, and
//! whatever disks and devices a test gives it. Boots in seconds, anywhere.
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::cpio::Cpio;
use crate::peers::{self, Finished};

/// How long a guest may take from its start to its end. It needs some eight seconds on an idle machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(240);

/// What a guest is made of.
pub(crate) struct Guest {
    modules: Vec<String>,
    /// Programs of the peers' root, with their libraries.
    programs: Vec<String>,
    /// Shell script that runs as the first process, with the modules loaded and /dev, /proc and /sys mounted.
    script: String,
    /// More arguments of qemu: disks, networks.
    arguments: Vec<String>,
    /// Memory in MiB.
    memory: u32,
    deadline: Duration,
}

impl Guest {
    /// A guest that runs `script` (busybox sh) from its initramfs.
    pub(crate) fn new(script: &str) -> Guest {
        let script = script.to_owned();
        let (modules, programs, arguments) = (Vec::new(), Vec::new(), Vec::new());
        Guest { modules, programs, script, arguments, memory: 256, deadline: BOOT_DEADLINE }
    }

    /// Lets a campaign run for so long.
    pub(crate) fn deadline(mut self, deadline: Duration) -> Guest {
        self.deadline = deadline;
        self
    }

    /// Loads kernel modules by name, and all that they need before them.
    pub(crate) fn modules(mut self, names: &[&str]) -> Guest {
        self.modules.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Gives it so many MiB of memory.
    pub(crate) fn memory(mut self, mib: u32) -> Guest {
        self.memory = mib;
        self
    }

    /// Puts a program of the peers' root, named by its path there without the leading slash, into the guest's `/bin`; or one of this
    /// machine, named by its whole path, that runs with the libraries of that root.
    /// Scripts name it by its whole path, because busybox's shell prefers its own `nbd-client` and others.
    pub(crate) fn program(mut self, path: &str) -> Guest {
        self.programs.push(path.to_owned());
        self
    }

    /// Adds a virtio disk (`/dev/vda` is the first) on a block device node of qemu, given as `--blockdev` takes it
    /// but for its name: `driver=nbd,server.type=unix,...`.
    pub(crate) fn disk(mut self, blockdev: &str) -> Guest {
        let name = format!("disk{}", self.arguments.len());
        let drive = format!("virtio-blk-pci,drive={name}");
        let blockdev = format!("{blockdev},node-name={name}");
        self.arguments.extend(["-blockdev".into(), blockdev, "-device".into(), drive]);
        self
    }

    /// Adds a network card through which 10.0.2.2 is this machine's loopback. The guest loads `virtio_net` and
    /// gives `eth0` an address in 10.0.2.0/24.
    pub(crate) fn network(mut self) -> Guest {
        let more = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="];
        self.arguments.extend(more.map(str::to_owned));
        self
    }

    /// As [`Guest::network`]; and what connects to `port` of this machine's loopback reaches `to` in the guest.
    pub(crate) fn reachable(mut self, port: u16, to: u16) -> Guest {
        let forward = format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{to}");
        self.arguments.extend(["-netdev".to_owned(), forward]);
        self.arguments.extend(["-device", "virtio-net-pci,netdev=net,romfile="].map(str::to_owned));
        self
    }

    /// Has qemu write each request to NBD servers to a file.
    pub(crate) fn trace_requests(mut self, file: &Path) -> Guest {
        let more = ["-trace".to_owned(), "nbd_send_request".to_owned(), "-D".to_owned()];
        self.arguments.extend(more.into_iter().chain([file.display().to_string()]));
        self
    }

    /// A second serial line, `/dev/ttyS1`, whose other end is a unix socket.
    pub(crate) fn control(mut self, socket: &Path) -> Guest {
        let line = format!("unix:{},server=on,wait=off", socket.display());
        self.arguments.extend(["-serial".to_owned(), line]);
        self
    }

    /// Boots it and waits until it powers off. All that it wrote to its serial console is the standard output.
    /// `None` after a named skip.
    #[track_caller]
    pub(crate) fn run(self) -> Option<Finished> {
        let root = peers::debian_root()?;
        let mut qemu: Command = peers::command("qemu-system-x86_64")?;
        let kernel =
            Kernel::of(&std::env::var_os("RINGNBD_GUEST_KERNEL").map_or(root.clone(), PathBuf::from));
        let directory = TempDir::new().unwrap();
        let initramfs = directory.path().join("initramfs");
        fs::write(&initramfs, self.initramfs(&root, &kernel)).unwrap();
        qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1"]);
        qemu.arg("-m").arg(self.memory.to_string());
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        // A panic reboots at once, which -no-reboot turns into an end.
        // Emulated on a host that is busy, the timer can be too late for the kernel's check of it, and then it
        // panics. And what looks like a locked processor to it is one that was not emulated for a while.
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check nosoftlockup"]);
        Some(peers::run_within(self.deadline, qemu.args(&self.arguments), b""))
    }

    fn initramfs(&self, root: &Path, kernel: &Kernel) -> Vec<u8> {
        let mut archive = Cpio::new();
        for directory in ["bin", "dev", "proc", "sys", "mnt", "modules"] {
            archive.directory(directory);
        }
        let busybox = busybox(root);
        archive.program("bin/busybox", &fs::read(&busybox).unwrap());
        // Debian's loader looks for libraries in /lib and for itself in /lib64.
        archive.directory("lib");
        archive.directory("lib64");
        let mut libraries = BTreeSet::new();
        for program in &self.programs {
            let name = Path::new(program).file_name().unwrap().to_str().unwrap();
            archive.program(&format!("bin/{name}"), &fs::read(root.join(program)).unwrap());
            libraries.extend(libraries_of(root, program));
        }
        for library in &libraries {
            let name = library.file_name().unwrap().to_str().unwrap();
            let place = if name.starts_with("ld-linux") { "lib64" } else { "lib" };
            archive.program(&format!("{place}/{name}"), &fs::read(library).unwrap());
        }
        let mut load = String::new();
        for path in kernel.closure(&self.modules) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            archive.program(&format!("modules/{name}"), &unpack(&busybox, &path));
            load += &format!("insmod /modules/{name} || echo CANNOT LOAD {name}\n");
        }
        let init = format!(
            "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
             mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n{load}{}\n",
            self.script
        );
        archive.program("init", init.as_bytes());
        archive.finish()
    }
}

/// The static busybox of the peers' root: it runs in a guest, and on this machine too.
pub(crate) fn busybox(root: &Path) -> PathBuf {
    root.join("usr/bin/busybox")
}

/// The shared libraries of a program, its loader among them, as the root's own loader finds them.
fn libraries_of(root: &Path, program: &str) -> Vec<PathBuf> {
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    // fio's, which it loads whether or not it is asked for RBD.
    let libraries = format!("{0}:{0}/ceph", libraries.display());
    let mut command = Command::new(&loader);
    command.arg("--library-path").arg(libraries).arg("--list").arg(root.join(program));
    let listed = peers::run(&mut command).ok();
    let found = listed.lines().filter_map(|line| line.split_once("=> ")).map(|(_, path)| path);
    let mut paths: Vec<PathBuf> =
        found.filter_map(|path| path.split(" (").next()).map(PathBuf::from).collect();
    assert!(paths.iter().all(|path| path.starts_with(root)), "{listed}");
    paths.push(loader);
    paths
}

/// A kernel image and the directory of its modules.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    /// `modules.dep`: a module, a colon, and those that it needs.
    dependencies: String,
}

impl Kernel {
    /// Of the peers' root, or of a directory that `tests/peers kernel` made.
    fn of(root: &Path) -> Kernel {
        let boot = fs::read_dir(root.join("boot")).unwrap().map(|entry| entry.unwrap().path());
        let is_image = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("vmlinuz-");
        let image = boot.into_iter().find(is_image).expect("a kernel in the peers' root");
        let release = image.file_name().unwrap().to_str().unwrap().trim_start_matches("vmlinuz-").to_owned();
        // Older packages have them in /lib.
        let places = ["usr/lib/modules", "lib/modules"].map(|place| root.join(place).join(&release));
        let modules = places.into_iter().find(|place| place.exists()).expect("modules of that kernel");
        let dependencies = fs::read_to_string(modules.join("modules.dep")).unwrap();
        Kernel { image, modules, dependencies }
    }

    /// The files of modules `names` and of all that they need, in the order in which they must be loaded.
    /// A module that is built in has no file and is left out.
    fn closure(&self, names: &[String]) -> Vec<PathBuf> {
        let built_in = fs::read_to_string(self.modules.join("modules.builtin")).unwrap();
        let mut ordered: Vec<PathBuf> = Vec::new();
        for name in names {
            let file = format!("/{name}.ko");
            let line = self.dependencies.lines().find(|line| {
                let path = line.split(':').next().unwrap();
                path.trim_end_matches(".xz").ends_with(&file)
            });
            let Some((path, needed)) = line.and_then(|line| line.split_once(':')) else {
                assert!(built_in.contains(&file), "the guest kernel has no module {name}");
                continue;
            };
            // The file lists what is needed directly first, so it is loaded from the end.
            for path in needed.split_whitespace().rev().chain([path]) {
                let path = self.modules.join(path);
                if !ordered.contains(&path) {
                    ordered.push(path);
                }
            }
        }
        ordered
    }
}

/// Contents of a module file, which Debian compresses.
fn unpack(busybox: &Path, module: &Path) -> Vec<u8> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(module).unwrap();
    }
    let output = Command::new(busybox).args(["unxz", "-c"]).arg(module).output().unwrap();
    assert!(output.status.success(), "{}: {}", module.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}
