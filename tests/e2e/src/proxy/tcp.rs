//! Two unreliable networks: one between clients and a node, where single requests fail, and one between a node and the
//! store, which fails as a whole.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Makes the connection close with a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// What happens to one request. Every connection carries one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mishap {
    None,
    /// The request is delayed.
    LateRequest(Duration),
    /// The response is delayed.
    LateAnswer(Duration),
    /// The server responds, and the response is lost.
    LostAnswer,
    /// The connection is reset on both sides this long after the request went through.
    Reset(Duration),
}

impl Mishap {
    fn draw() -> Self {
        let upto = |most: u64| Duration::from_millis(fastrand::u64(0..most));
        match fastrand::u32(0..100) {
            0..4 => Self::LateRequest(upto(300)),
            4..8 => Self::LateAnswer(upto(300)),
            8..12 => Self::LostAnswer,
            12..15 => Self::Reset(upto(30)),
            _ => Self::None,
        }
    }
}

/// The address of one node. It stays the same when the node restarts on other ports.
pub struct Front {
    /// The port with mishaps.
    pub rough: u16,
    /// The port without mishaps.
    pub smooth: u16,
    /// The current port of the node, or 0 if it is down.
    pub node: Arc<AtomicU16>,
}

impl Front {
    pub async fn open() -> Self {
        let node = Arc::new(AtomicU16::new(0));
        let mut ports = [0; 2];
        for (port, is_rough) in ports.iter_mut().zip([true, false]) {
            let (listener, listening) = listen().await;
            *port = listening;
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let mishap = if is_rough { Mishap::draw() } else { Mishap::None };
                    tokio::spawn(carry(client, node.load(Ordering::SeqCst), mishap));
                }
            });
        }
        Self { rough: ports[0], smooth: ports[1], node }
    }
}

async fn carry(mut client: TcpStream, node: u16, mishap: Mishap) -> io::Result<()> {
    if node == 0 {
        reset(&client);
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", node)).await?;
    match mishap {
        Mishap::None => drop(copy_bidirectional(&mut client, &mut server).await),
        Mishap::LateRequest(late) => {
            sleep(late).await;
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
        Mishap::LateAnswer(late) => {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let forth = tokio::io::copy(&mut from_client, &mut to_server);
            let back = async {
                let mut first = [0; 4096];
                let read = from_server.read(&mut first).await?;
                sleep(late).await;
                to_client.write_all(&first[..read]).await?;
                tokio::io::copy(&mut from_server, &mut to_client).await?;
                to_client.shutdown().await
            };
            let (_, _) = tokio::join!(forth, back);
        }
        Mishap::LostAnswer => {
            {
                let (mut from_client, _) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let forth = async {
                    tokio::io::copy(&mut from_client, &mut to_server).await.ok();
                    std::future::pending::<()>().await;
                };
                let mut first = [0; 1];
                tokio::select! {
                    () = forth => {}
                    _ = from_server.read(&mut first) => {}
                    () = sleep(Duration::from_secs(10)) => {}
                }
            }
            reset(&client);
        }
        Mishap::Reset(after) => {
            let mut request = [0; 4096];
            let read = client.read(&mut request).await?;
            server.write_all(&request[..read]).await?;
            timeout(after, copy_bidirectional(&mut client, &mut server)).await.ok();
            reset(&client);
            reset(&server);
        }
    }
    Ok(())
}

/// The state of the network between a node and the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    Fine,
    /// Everything is delayed by this much.
    Slow(Duration),
    /// Nothing gets through. What was sent arrives later, as with TCP retransmission.
    Stalled,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    condition: Condition,
    /// The number of times that all connections were reset.
    cuts: u64,
    /// The current port of the store.
    store: u16,
}

/// The connection between one node and the store.
pub struct StoreLine {
    pub port: u16,
    line: watch::Sender<Line>,
    latency: Option<Latency>,
}

/// A delay of every response of the store.
#[derive(Clone)]
struct Latency {
    by: Duration,
    /// How many it has delayed.
    delayed: Arc<AtomicU64>,
}

impl StoreLine {
    pub async fn open(store: u16) -> Self {
        Self::open_with(store, None).await
    }

    /// Every response of the store is delayed by this much, and therefore every call.
    pub async fn open_with_latency(store: u16, latency: Duration) -> Self {
        let delayed = Arc::new(AtomicU64::new(0));
        Self::open_with(store, Some(Latency { by: latency, delayed })).await
    }

    async fn open_with(store: u16, latency: Option<Latency>) -> Self {
        let (listener, port) = listen().await;
        let (line, seen) = watch::channel(Line { condition: Condition::Fine, cuts: 0, store });
        tokio::spawn({
            let latency = latency.clone();
            async move {
                while let Ok((node, _)) = listener.accept().await {
                    tokio::spawn(connect(node, seen.clone(), latency.clone()));
                }
            }
        });
        Self { port, line, latency }
    }

    /// How many responses the latency has delayed.
    pub fn delayed(&self) -> u64 {
        self.latency.as_ref().map_or(0, |latency| latency.delayed.load(Ordering::Relaxed))
    }

    pub fn set_condition(&self, condition: Condition) {
        self.line.send_modify(|line| line.condition = condition);
    }

    /// Resets every connection. New connections succeed immediately.
    pub fn cut(&self) {
        self.line.send_modify(|line| line.cuts += 1);
    }

    /// Forwards to a store on this port from now on. Connections to the previous one are reset.
    pub fn lead_to(&self, store: u16) {
        self.line.send_modify(|line| {
            line.store = store;
            line.cuts += 1;
        });
    }
}

async fn connect(node: TcpStream, mut line: watch::Receiver<Line>, latency: Option<Latency>) {
    let Line { store, cuts, .. } = *line.borrow_and_update();
    let Ok(store) = TcpStream::connect(("127.0.0.1", store)).await else {
        reset(&node);
        return;
    };
    node.set_nodelay(true).ok();
    store.set_nodelay(true).ok();
    // Set now, so that both sides get a reset whichever way the connection ends.
    reset(&node);
    reset(&store);
    let (from_node, to_node) = node.into_split();
    let (from_store, to_store) = store.into_split();
    let (forth, back) = (line.clone(), line.clone());
    tokio::select! {
        _ = pump(from_node, to_store, forth, None) => {}
        _ = pump(from_store, to_node, back, latency) => {}
        _ = line.wait_for(|line| line.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    latency: Option<Latency>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let Ok(condition) = line.wait_for(|line| line.condition != Condition::Stalled).await.map(|line| line.condition)
        else {
            return Ok(());
        };
        if let Condition::Slow(late) = condition {
            sleep(late).await;
        }
        if let Some(Latency { by, delayed }) = &latency {
            delayed.fetch_add(1, Ordering::Relaxed);
            sleep(*by).await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
