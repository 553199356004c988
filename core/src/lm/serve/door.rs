//! Connections: how many there are, how long they may be silent, and how they end. Whatever one client does, the others
//! are answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum_core::response::Response;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::error::ServeError;
use super::request::Refusal;
use super::write::lock;

/// How much a server accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at the same time. For another client, the connection that was silent longest is closed.
    pub connections: usize,
    /// Most requests that are worked on or wait for that.
    pub requests: usize,
    /// Largest body of a request, bytes. To read it takes up to 40 times as much memory, for one request at a time.
    pub body: usize,
    /// How long a request may take, from its head to the last token.
    pub request: Duration,
    /// How long a client may take to send a head, and then a body; and how long it may send nothing, or take nothing of
    /// what it is sent.
    pub patience: Duration,
    /// How often a client that waits is written to.
    pub ping: Duration,
}

/// An address that is listened at.
pub(super) struct Port {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// All connections, in the order in which they came.
#[derive(Default)]
struct Visits {
    all: Mutex<BTreeMap<u64, Arc<Visit>>>,
}

/// One connection.
pub(super) struct Visit {
    state: Mutex<State>,
    /// Told when the connection has to end at once.
    leave: Notify,
}

struct State {
    /// Since when the server waits for the client; `None` while a request of it is worked on.
    idle: Option<Instant>,
    /// When its request must have ended.
    until: Option<Instant>,
}

/// A request of a connection, from its head to the end of its answer.
pub(super) struct Stay(Arc<Visit>);

/// How often the server looks whether it has to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// How often a connection is checked for being over its time.
const LOOK: Duration = Duration::from_secs(1);

/// Pause between two tries to accept connections.
const RETRY: Duration = Duration::from_millis(100);

/// The server ends when it could accept no connection for so long.
const GIVE_UP: Duration = Duration::from_secs(300);

/// How long requests may still take when the server ends.
const GRACE: Duration = Duration::from_secs(2);

/// Most bytes of a request's head, and most lines of it.
pub(super) const MOST_HEAD: usize = 32 << 10;
pub(super) const MOST_LINES: usize = 100;

/// Bytes that are read ahead from a client. hyper's own buffer would be ten times as large.
const BUFFER: usize = 64 << 10;

/// Most clients that are refused with an answer at the same time. Further clients get no answer.
const MOST_TURNED_AWAY: usize = 64;

/// How long such a client may take to read its answer.
const FAREWELL: Duration = Duration::from_secs(1);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            requests: 256,
            body: 4 << 20,
            request: Duration::from_secs(600),
            patience: Duration::from_secs(30),
            ping: Duration::from_secs(1),
        }
    }
}

impl Port {
    /// Listens; port 0 is any free one.
    pub(super) fn bind(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let listener = TcpListener::bind(addresses.as_slice())?;
        listener.set_nonblocking(true)?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Takes connections, whose requests are answered by `answer`, until `stop` is set. Then requests get a little time
    /// to end.
    pub(super) async fn receive<A, R>(&self, limits: &Limits, stop: &AtomicBool, answer: A) -> Result<(), ServeError>
    where
        A: Fn(Request<Incoming>, Arc<Visit>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let listener = listener.map_err(ServeError::Accept)?;
        let visits = Arc::new(Visits::default());
        let (ending, _) = watch::channel(());
        let turned_away = Arc::new(AtomicUsize::new(0));
        // Since when no connection could be accepted, and whether the user knows.
        let (mut failing, mut warned) = (None::<Instant>, false);
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let Ok(accepted) = timeout(GLANCE, listener.accept()).await else { continue };
            match accepted {
                Ok((stream, _)) => {
                    (failing, warned) = (None, false);
                    if visits.count() >= limits.connections && !visits.make_room() {
                        turn_away(stream, &turned_away);
                        continue;
                    }
                    number += 1;
                    let visit = visits.enter(number);
                    let (visits, answer, ending) = (Arc::clone(&visits), answer.clone(), ending.subscribe());
                    let patience = limits.patience;
                    tokio::spawn(async move {
                        host(stream, &visit, patience, answer, ending).await;
                        lock(&visits.all).remove(&number);
                    });
                }
                // The client was gone before it was accepted: nothing is wrong.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        let told = "it is tried again; requests in progress go on";
                        // A closed stderr does not end the server.
                        writeln!(io::stderr(), "warning: no connection can be accepted for now ({error}): {told}").ok();
                    }
                    if failing.get_or_insert_with(Instant::now).elapsed() > GIVE_UP {
                        return Err(ServeError::Accept(error));
                    }
                    // The usual reason is that the system has too many connections.
                    visits.make_room();
                    sleep(RETRY).await;
                }
            }
        }
        drop(listener);
        ending.send(()).ok();
        let begun = Instant::now();
        while visits.count() > 0 && begun.elapsed() < GRACE {
            sleep(GLANCE).await;
            // Clients that have asked for nothing are not waited for.
            while visits.make_room() {}
        }
        Ok(())
    }
}

impl Visits {
    fn enter(&self, number: u64) -> Arc<Visit> {
        let state = State { idle: Some(Instant::now()), until: None };
        let visit = Arc::new(Visit { state: Mutex::new(state), leave: Notify::new() });
        lock(&self.all).insert(number, Arc::clone(&visit));
        visit
    }

    fn count(&self) -> usize {
        lock(&self.all).len()
    }

    /// Ends the connection whose client was silent for longest. Returns false where all connections have requests that
    /// are worked on.
    fn make_room(&self) -> bool {
        let mut all = lock(&self.all);
        let idle = all.iter().filter_map(|(number, visit)| Some((lock(&visit.state).idle?, *number)));
        let Some((_, number)) = idle.min() else { return false };
        if let Some(visit) = all.remove(&number) {
            visit.leave.notify_one();
        }
        true
    }
}

impl Visit {
    fn is_over_time(&self) -> bool {
        lock(&self.state).until.is_some_and(|until| until < Instant::now())
    }
}

impl Stay {
    /// A request has begun, and must have ended at this time.
    pub(super) fn begin(visit: &Arc<Visit>, until: Instant) -> Self {
        let mut state = lock(&visit.state);
        state.until = Some(until);
        drop(state);
        Self(Arc::clone(visit))
    }

    /// The whole request is there. From now on the client waits for the server.
    pub(super) fn works(&self) {
        lock(&self.0.state).idle = None;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        *lock(&self.0.state) = State { idle: Some(Instant::now()), until: None };
    }
}

/// Serves one connection to its end.
async fn host<A, R>(
    stream: TcpStream,
    visit: &Arc<Visit>,
    patience: Duration,
    answer: A,
    mut ending: watch::Receiver<()>,
) where
    A: Fn(Request<Incoming>, Arc<Visit>) -> R,
    R: Future<Output = Response>,
{
    stream.set_nodelay(true).ok();
    let guest = Arc::clone(visit);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request, Arc::clone(&guest));
        async move { Ok::<_, Infallible>(response.await) }
    });
    let stream = Patient { stream: TokioIo::new(stream), patience, stalled: None };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It also ends a connection that is kept alive and silent.
        .header_read_timeout(patience)
        .max_headers(MOST_LINES)
        .max_header_size(MOST_HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(stream, service);
    let mut connection = pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            biased;
            // The client is gone, so it does not matter how the connection ended.
            _ = connection.as_mut() => return,
            () = visit.leave.notified() => return,
            _ = ending.changed(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(LOOK) => {
                if visit.is_over_time() {
                    return;
                }
            }
        }
    }
}

/// Tells a client that there is no room.
fn turn_away(mut stream: TcpStream, count: &Arc<AtomicUsize>) {
    if count.fetch_add(1, Ordering::Relaxed) >= MOST_TURNED_AWAY {
        count.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let count = Arc::clone(count);
    tokio::spawn(async move {
        let message = "too many connections: try again later, or raise --max-connections".to_owned();
        let body = Refusal::new(503, "too_many_connections", message).body().to_string();
        let (status, length) = (StatusCode::SERVICE_UNAVAILABLE, body.len());
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nRetry-After: 1\r\n\
             Connection: close\r\n\r\n{body}"
        );
        let farewell = async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            // If anything were left unread, closing the connection would discard the answer.
            while stream.read(&mut [0; 1024]).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        timeout(FAREWELL, farewell).await.ok();
        count.fetch_sub(1, Ordering::Relaxed);
    });
}

/// A connection that fails when the client takes nothing of what it is sent for longer than its patience.
struct Patient {
    stream: TokioIo<TcpStream>,
    patience: Duration,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn progress<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Read for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.progress(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.progress(cx, polled)
    }
}
