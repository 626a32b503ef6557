//! A store's server as a process that a test kills, pauses and restarts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// A server and its data. Dropping it removes both.
pub struct Server {
    kind: &'static str,
    settings: Vec<(&'static str, String)>,
    folder: tempfile::TempDir,
    pub port: u16,
    process: Option<Child>,
}

impl Server {
    /// A new server without data, of a kind that `with-servers --serve` supports. It is not started yet.
    pub fn new(kind: &'static str, settings: &[(&'static str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let folder =
            tempfile::Builder::new().prefix("axum-refresh-server.").tempdir_in(crate::stores::files()).unwrap();
        // The database runs as a different user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { kind, settings, folder, port, process: None }
    }

    /// The folder of its data and of its certificate.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it with its existing data on its port, and waits until it responds.
    pub async fn run(&mut self, answers: impl AsyncFn(u16) -> bool) {
        let started = Instant::now();
        loop {
            match self.exited() {
                None if self.process.is_some() => {}
                // Postgres does not start while the shared memory of its previous run still exists.
                _ => self.spawn(),
            }
            if answers(self.port).await {
                return;
            }
            let is_missing = self.exited().is_some_and(|status| status.code() == Some(3));
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(!is_missing, "{}", log().trim());
            assert!(started.elapsed() < Duration::from_secs(60), "{} does not respond: {}", self.kind, log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().unwrap())
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/with-servers"))
            .args(["--serve", self.kind])
            .arg(self.data())
            .arg(self.port.to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            // Stays open as long as this process lives. The server exits when it closes.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("with-servers starts");
        self.process = Some(process);
    }

    /// Kills it and all its child processes with SIGKILL.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        signal("-KILL", process.id());
        process.wait().ok();
    }

    /// Pauses it with SIGSTOP. Connections stay open, without responses.
    pub fn pause(&self) {
        signal("-STOP", self.process.as_ref().unwrap().id());
    }

    pub fn resume(&self) {
        signal("-CONT", self.process.as_ref().unwrap().id());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process and all its descendants: Postgres has one process per connection.
fn signal(name: &str, process: u32) {
    let mut tree = vec![process];
    let mut next = 0;
    let children = children();
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(children.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    let tree: Vec<_> = tree.iter().map(u32::to_string).collect();
    // A process that has just exited is not an error.
    Command::new("kill").arg(name).args(tree).stderr(Stdio::null()).status().unwrap();
}

/// Every process and its parent.
fn children() -> Vec<(u32, u32)> {
    let read = |folder: &Path| {
        let process = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // "pid (name) state parent ...", and the name may contain any character.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((process, parent))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| read(&entry.ok()?.path())).collect()
}
