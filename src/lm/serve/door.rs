//! Connections come in, whatever happens to those that came before.

use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiny_http::Request;

use super::ServeError;

/// What is listened at.
pub(super) struct Port {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    /// How long a client may be silent.
    patience: Duration,
}

/// Where connections come in. tiny_http ends to accept them at the first that fails, and says so, or ends by a panic, and
/// does not; those that it has, it goes on to read. Another one takes its place then.
pub(super) struct Door<'a> {
    port: &'a Port,
    front: Front,
    /// Those that accept no more, but may still read from a connection.
    retired: Vec<Front>,
    /// When there is to be another front, where this one ended, and since when there could be none.
    again: Option<Instant>,
    failing: Option<Instant>,
    /// Finds out whether a silent front still accepts.
    probe: Option<JoinHandle<bool>>,
    /// Whether the user knows.
    warned: bool,
}

struct Front {
    http: tiny_http::Server,
    /// When it last said something.
    heard: Instant,
}

/// How often it is looked whether to end.
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// Between two tries to accept connections.
const RETRY: Duration = Duration::from_secs(1);

/// After so long without being able to listen at all the server ends.
const GIVE_UP: Duration = Duration::from_secs(300);

/// What a connection to ourselves is given to be accepted in.
const PROBE: Duration = Duration::from_secs(5);

impl Port {
    /// Listens; port 0 is any free one.
    pub(super) fn bind(host: &str, port: u16, patience: Duration) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let listener = with_timeouts(TcpListener::bind(addresses.as_slice())?, patience)?;
        Ok(Self { address: listener.local_addr()?, listener, patience })
    }

    /// Accepts connections, until one fails, or for as long as a client may be silent. tiny_http panics where it can have
    /// no thread: so it begins in one of its own.
    pub(super) fn accept(&self) -> io::Result<tiny_http::Server> {
        let listener = self.listener.try_clone()?;
        let begin = move || tiny_http::Server::from_listener(listener, None).map_err(|error| error.to_string());
        match thread::Builder::new().spawn(begin)?.join() {
            Ok(front) => front.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("there is no thread to be had")),
        }
    }
}

impl<'a> Door<'a> {
    pub(super) fn new(port: &'a Port, front: tiny_http::Server) -> Self {
        let front = Front { http: front, heard: Instant::now() };
        Self { port, front, retired: Vec::new(), again: None, failing: None, probe: None, warned: false }
    }

    /// The next request, if one comes within a glance.
    pub(super) fn next(&mut self) -> Result<Option<Request>, ServeError> {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.renew()?;
        }
        for old in &mut self.retired {
            if let Ok(Some(request)) = old.http.try_recv() {
                old.heard = Instant::now();
                return Ok(Some(request));
            }
        }
        // Connections without a request for so long were closed.
        let patience = self.port.patience;
        for old in self.retired.extract_if(.., |old| old.heard.elapsed() > 2 * patience + GLANCE) {
            let_go(old);
        }
        match self.front.http.recv_timeout(GLANCE) {
            Ok(Some(request)) => {
                self.front.heard = Instant::now();
                self.warned = false;
                Ok(Some(request))
            }
            Ok(None) => {
                self.listen_to_silence();
                Ok(None)
            }
            Err(error) => {
                self.front.heard = Instant::now();
                // No connection for a while, or one that was gone before it was accepted: nothing is wrong.
                let fine = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::ConnectionAborted];
                let wait = if fine.contains(&error.kind()) { Duration::ZERO } else { RETRY };
                if !wait.is_zero() {
                    self.warn(&format!("no connection can be accepted for now ({error})"));
                }
                self.again = Some(Instant::now() + wait);
                Ok(None)
            }
        }
    }

    /// A front that accepts says something in time, unless connections come without a request.
    fn listen_to_silence(&mut self) {
        if self.again.is_some() {
            return;
        }
        if let Some(probe) = self.probe.take_if(|probe| probe.is_finished()) {
            self.front.heard = Instant::now();
            if !probe.join().unwrap_or(true) {
                self.warn("what accepts connections has failed");
                self.again = Some(Instant::now());
            }
        } else if self.probe.is_none() && self.front.heard.elapsed() > self.port.patience + RETRY {
            let address = self.port.address;
            self.probe = thread::Builder::new().spawn(move || accepts(address)).ok();
        }
    }

    fn renew(&mut self) -> Result<(), ServeError> {
        match self.port.accept() {
            Ok(http) => {
                let front = Front { http, heard: Instant::now() };
                self.retired.push(std::mem::replace(&mut self.front, front));
                (self.again, self.failing, self.probe) = (None, None, None);
                Ok(())
            }
            Err(error) if self.failing.get_or_insert_with(Instant::now).elapsed() > GIVE_UP => {
                Err(ServeError::Accept(error))
            }
            Err(error) => {
                self.warn(&format!("cannot listen for now ({error})"));
                self.again = Some(Instant::now() + RETRY);
                Ok(())
            }
        }
    }

    fn warn(&mut self, what: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            eprintln!("warning: {what}: it is tried again; requests in progress go on");
        }
    }

    pub(super) fn close(self) {
        self.retired.into_iter().for_each(let_go);
        let_go(self.front);
    }
}

/// Connections that are accepted have the timeouts of what accepts them; so has the wait for one.
#[cfg(unix)]
fn with_timeouts(listener: TcpListener, patience: Duration) -> io::Result<TcpListener> {
    use std::os::fd::OwnedFd;
    // Both are sockets to the system; only a stream's timeouts can be set.
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

#[cfg(not(unix))]
fn with_timeouts(listener: TcpListener, _: Duration) -> io::Result<TcpListener> {
    Ok(listener)
}

/// Whether a connection is accepted: one that is closed by us is closed by the other side as well.
pub(super) fn accepts(mut address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let closed = || -> io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
        stream.set_read_timeout(Some(PROBE))?;
        stream.shutdown(Shutdown::Write)?;
        stream.read(&mut [0])
    };
    // Whatever else goes wrong says nothing of it.
    !closed().is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// To end, tiny_http connects to itself, which may take long where nobody accepts.
fn let_go(front: Front) {
    thread::Builder::new().spawn(move || drop(front)).ok();
}
