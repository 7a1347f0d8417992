//! The listener's life: open, closed with its port kept, and the connections in between.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::connection::{Control, ControlledStream};
use super::control;
use super::exchange::Connection;
use super::fault::TlsFailure;
use super::state::Shared;
use super::tls::Certificates;

/// Connections served at a time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 256;
/// Connections that wait for being accepted.
const BACKLOG: u32 = 1024;
/// After a failure to accept or to open the port again.
const RETRY_MS: u64 = 10;

/// What the owner asks of the server's thread; the sender gets `()` when it is done.
pub(super) enum Command {
    /// The faults have changed.
    Reconcile { close_connections: bool, done: Done },
    /// Answer control requests on this listener too.
    Control {
        listener: std::net::TcpListener,
        handle: control::Handle,
        done: Done,
    },
    /// Close everything and end.
    Stop,
}

pub(super) type Done = std::sync::mpsc::SyncSender<()>;

/// Binds the port without listening on it.
pub(super) fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the time before a closing may linger, and must not keep the port from opening again.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) address: SocketAddr,
    door: Door,
    connections: JoinSet<()>,
    accepted_count: u64,
}

/// The port is always held, so that nobody else gets it while connecting to it is refused.
enum Door {
    Open(TcpListener),
    Closed(Option<TcpSocket>),
}

impl Server {
    pub(super) fn open(
        shared: Arc<Shared>,
        certificates: Option<Arc<Certificates>>,
        socket: TcpSocket,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self {
            shared,
            certificates,
            address,
            door: Door::Open(socket.listen(BACKLOG)?),
            connections: JoinSet::new(),
            accepted_count: 0,
        })
    }

    /// Runs until the owner is gone.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => return,
                    Some(command) => self.obey(command).await,
                },
                accepted = accept(&self.door) => self.serve(accepted).await,
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        let done = match command {
            Command::Reconcile {
                close_connections,
                done,
            } => {
                let closed = self.shared.lock().faults.refuses();
                self.set_closed(closed).await;
                if close_connections || closed {
                    self.connections.shutdown().await;
                }
                done
            }
            Command::Control {
                listener,
                handle,
                done,
            } => {
                tokio::spawn(control::serve(listener, handle));
                done
            }
            Command::Stop => return,
        };
        let _owner_gone = done.send(());
    }

    async fn set_closed(&mut self, closed: bool) {
        match (&mut self.door, closed) {
            (Door::Open(_), true) => {
                // Two sockets cannot be bound to one port while either listens, so the old one goes first.
                self.door = Door::Closed(None);
                self.door = Door::Closed(Some(self.rebind().await));
            }
            (Door::Closed(socket), false) => {
                let mut held = socket.take();
                loop {
                    let socket = match held.take() {
                        Some(socket) => socket,
                        None => self.rebind().await,
                    };
                    if let Ok(listener) = socket.listen(BACKLOG) {
                        self.door = Door::Open(listener);
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
            }
            _ => {}
        }
    }

    async fn rebind(&self) -> TcpSocket {
        loop {
            if let Ok(socket) = bind(self.address.port()) {
                return socket;
            }
            tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
        }
    }

    async fn serve(&mut self, accepted: io::Result<TcpStream>) {
        let Ok(stream) = accepted else {
            tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            return;
        };
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let _best_effort = stream.set_nodelay(true);
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let control = Control::new();
        let connection = Connection {
            shared: Arc::clone(&self.shared),
            control: Arc::clone(&control),
            sequence: self.accepted_count,
            origin: format!("{scheme}://{}", self.address),
        };
        self.accepted_count += 1;
        let failure = self.shared.lock().faults.for_connection();
        let certificates = self.certificates.clone();
        let stream = ControlledStream::new(stream, control);
        self.connections
            .spawn(converse(stream, connection, certificates, failure));
    }
}

async fn accept(door: &Door) -> io::Result<TcpStream> {
    match door {
        Door::Open(listener) => listener.accept().await.map(|(stream, _)| stream),
        Door::Closed(_) => std::future::pending().await,
    }
}

async fn converse(
    mut stream: ControlledStream,
    connection: Connection,
    certificates: Option<Arc<Certificates>>,
    failure: Option<TlsFailure>,
) {
    match failure {
        Some(TlsFailure::Hang) => std::future::pending().await,
        Some(TlsFailure::Garbage) => send_garbage(&mut stream).await,
        _ => {}
    }
    if failure == Some(TlsFailure::Garbage) {
        return;
    }
    match certificates {
        // A client that will not have the certificate ends the handshake; there is nobody to tell.
        Some(certificates) => {
            if let Ok(stream) = certificates.acceptor(failure).accept(stream).await {
                serve_http(stream, connection).await;
            }
        }
        None => serve_http(stream, connection).await,
    }
}

async fn send_garbage(stream: &mut ControlledStream) {
    let mut hello = [0; 1024];
    let _whatever_it_says = stream.read(&mut hello).await;
    let _client_gone = stream
        .write_all(b"this is neither TLS nor HTTP\r\n\r\n")
        .await;
    let _client_gone = stream.shutdown().await;
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send, connection: Connection) {
    let service = service_fn(move |request| connection.clone().exchange(request));
    // Ends with an error whenever a fault or the client has cut the connection, which is what was wanted.
    let _cut = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
