//! A listener that keeps only so many connections open: a jail must not take every descriptor of the provider.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The listener. Connections beyond its bound wait in the kernel's queue.
pub(super) struct Few {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection that holds its place until it is closed.
pub(super) struct Placed {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

// === impl Few ===

impl Few {
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> Few {
        Few { listener, places: Arc::new(Semaphore::new(connections_max)) }
    }
}

impl Listener for Few {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = Listener::accept(&mut self.listener).await;
        (Placed { stream, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Placed ===

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_bound_is_taken_when_another_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let mut few = Few::new(listener, 2);
        let mut ours = Vec::new();
        for _ in 0..3 {
            ours.push(TcpStream::connect(at).await.expect("connects"));
        }
        let (first, _) = few.accept().await;
        let (_second, _) = few.accept().await;
        assert!(few.accept().now_or_never().is_none(), "there is no place for a third");
        drop(first);
        let (_, from) = few.accept().await;
        assert_eq!(from, ours[2].local_addr().expect("an address"));
    }
}
