//! Connections: how many there are, how long they may be silent, and how they end. Whatever one of them does, the others
//! are answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

use super::request::Refusal;
use super::write::lock;
use super::{Exchange, ServeError, answer};

/// What is listened at.
pub(super) struct Port {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// Everyone who is connected, in the order of coming.
#[derive(Default)]
struct Visits {
    all: Mutex<BTreeMap<u64, Arc<Visit>>>,
}

/// One connection.
pub(super) struct Visit {
    state: Mutex<State>,
    /// Told when it has to go at once.
    leave: Notify,
}

struct State {
    /// Since when it was waited for the client; `None` while its request is worked on.
    idle: Option<Instant>,
    /// When its request must be over.
    until: Option<Instant>,
}

/// A request of a connection, from its head to the end of its answer.
pub(super) struct Stay(Arc<Visit>);

/// How often it is looked whether to end.
const GLANCE: Duration = Duration::from_millis(50);

/// How often it is looked whether a connection is over its time.
const LOOK: Duration = Duration::from_secs(1);

/// Between two tries to accept connections.
const RETRY: Duration = Duration::from_millis(100);

/// After so long without being able to accept at all the server ends.
const GIVE_UP: Duration = Duration::from_secs(300);

/// What requests are given to end in when the server does.
const GRACE: Duration = Duration::from_secs(2);

/// Most bytes of a request's head, and most lines of it.
pub(super) const MOST_HEAD: usize = 32 << 10;
pub(super) const MOST_LINES: usize = 100;

/// What is read ahead of a client. hyper's own would be ten times as much.
const BUFFER: usize = 64 << 10;

/// Clients that are told at the same time that there is no room; further ones are told nothing.
const MOST_TURNED_AWAY: usize = 64;

/// What such a client is given to take its answer in.
const FAREWELL: Duration = Duration::from_secs(1);

impl Port {
    /// Listens; port 0 is any free one.
    pub(super) fn bind(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let listener = TcpListener::bind(addresses.as_slice())?;
        listener.set_nonblocking(true)?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Takes connections until the server is to stop, and waits a little for what they are in the middle of.
    pub(super) async fn receive(&self, exchange: &Arc<Exchange>) -> Result<(), ServeError> {
        let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let listener = listener.map_err(ServeError::Accept)?;
        let visits = Arc::new(Visits::default());
        let (ending, _) = watch::channel(());
        let turned_away = Arc::new(AtomicUsize::new(0));
        // Since when no connection could be accepted, and whether the user knows.
        let (mut failing, mut warned) = (None::<Instant>, false);
        let mut number = 0;
        while !exchange.stop.load(Ordering::Relaxed) {
            let Ok(accepted) = timeout(GLANCE, listener.accept()).await else { continue };
            match accepted {
                Ok((stream, _)) => {
                    (failing, warned) = (None, false);
                    if visits.count() >= exchange.limits.connections && !visits.make_room() {
                        turn_away(stream, &turned_away);
                        continue;
                    }
                    number += 1;
                    let visit = visits.enter(number);
                    let (visits, exchange, ending) = (Arc::clone(&visits), Arc::clone(exchange), ending.subscribe());
                    tokio::spawn(async move {
                        host(stream, &visit, exchange, ending).await;
                        lock(&visits.all).remove(&number);
                    });
                }
                // One that was gone before it was accepted: nothing is wrong.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        let told = "it is tried again; requests in progress go on";
                        // A stderr that is closed ends nothing.
                        writeln!(io::stderr(), "warning: no connection can be accepted for now ({error}): {told}").ok();
                    }
                    if failing.get_or_insert_with(Instant::now).elapsed() > GIVE_UP {
                        return Err(ServeError::Accept(error));
                    }
                    // Mostly there are too many of them for the system.
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
            // Whoever has asked for nothing yet is not waited for.
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

    /// Ends the connection that has been waited for longest; says no where all of them are worked for.
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
    /// A request has begun, which must be over at a time.
    pub(super) fn begin(visit: &Arc<Visit>, until: Instant) -> Self {
        let mut state = lock(&visit.state);
        state.until = Some(until);
        drop(state);
        Self(Arc::clone(visit))
    }

    /// All of it is there: from now on the client waits for us.
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
async fn host(stream: TcpStream, visit: &Arc<Visit>, exchange: Arc<Exchange>, mut ending: watch::Receiver<()>) {
    stream.set_nodelay(true).ok();
    let patience = exchange.limits.patience;
    let guest = Arc::clone(visit);
    let service = service_fn(move |request: Request<Incoming>| {
        let (exchange, visit) = (Arc::clone(&exchange), Arc::clone(&guest));
        async move { Ok::<_, Infallible>(answer(request, &exchange, &visit).await) }
    });
    let stream = Patient { stream: TokioIo::new(stream), patience, stalled: None };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also of one that is kept and silent.
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
            // How it ended concerns nobody: the client is gone.
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
        let refusal = Refusal { status: 503, message, param: None, code: Some("too_many_connections") };
        let body = refusal.body().to_string();
        let (status, length) = (StatusCode::SERVICE_UNAVAILABLE, body.len());
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nRetry-After: 1\r\n\
             Connection: close\r\n\r\n{body}"
        );
        let farewell = async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            // What is left unread would take the answer back.
            while stream.read(&mut [0; 1024]).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        timeout(FAREWELL, farewell).await.ok();
        count.fetch_sub(1, Ordering::Relaxed);
    });
}

/// A connection that fails when the client takes nothing of what it is sent for too long.
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
