//! nginx in front of an app on a Unix socket, with a prefix that it strips.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// The prefix that it strips.
pub const PREFIX: &str = "/shop";

/// A running nginx. Dropping it kills the process and removes its folder.
pub struct Nginx {
    folder: tempfile::TempDir,
    port: u16,
    _process: Child,
}

impl Nginx {
    /// Starts nginx. The app does not have to listen yet.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("axum-refresh-nginx.").tempdir_in(crate::stores::files()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration(folder.path(), port)).unwrap();
        let log = folder.path().join("log");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut process = Command::new("nginx")
            // Debian puts it where only root looks.
            .env("PATH", format!("{path}:/usr/sbin"))
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is not installed: `tests/run networks` installs it");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let is_running = process.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(20);
            assert!(is_running, "nginx does not start: {}", std::fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(10)).await;
        }
        Self { folder, port, _process: process }
    }

    /// The socket on which the app has to listen.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// The origin of the app, as browsers see it.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("app.sock")
}

fn configuration(folder: &Path, port: u16) -> String {
    let (folder, socket) = (folder.display(), socket(folder).display().to_string());
    // One process, so that it runs as the user of the test and ends with it.
    format!(
        "daemon off; master_process off; pid {folder}/pid;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
            uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
            server {{
                listen 127.0.0.1:{port};
                location {PREFIX}/ {{
                    proxy_pass http://unix:{socket}:/;
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                }}
            }}
        }}"
    )
}
