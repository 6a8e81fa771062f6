//! Files that a command hands to the gateway: their descriptors go over the socket, and no byte of them does.
//!
//! The command has opened the file, so its own rights decide, and a gateway whose file system is protected can use
//! it all the same. After the request, the gateway asks for the descriptor with [`Answer::Hand`]; it comes with one
//! byte. Only regular files are handed over: a pipe could block a thread for ever.
//!
//! [`Answer::Hand`]: super::super::Answer::Hand

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    panic::resume_unwind,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use fula_core::error::io_text;
use futures::{StreamExt, stream};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::Interest,
    net::UnixStream,
    task::{JoinHandle, spawn_blocking},
};

use super::Source;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Returns whether a file can be handed over.
pub(crate) fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
}

/// Sends the descriptor of a file.
pub(super) async fn send(stream: &UnixStream, file: &File) -> io::Result<()> {
    let sent = stream.async_io(Interest::WRITABLE, || {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        attached.push(SendAncillaryMessage::ScmRights(&files));
        Ok(sendmsg(stream, &[IoSlice::new(&[0])], &mut attached, SendFlags::NOSIGNAL)?)
    });
    sent.await.map(drop)
}

/// Receives the descriptor of a regular file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if something else comes.
pub(super) async fn receive(stream: &UnixStream) -> io::Result<File> {
    let received: Option<OwnedFd> = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut attached = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            recvmsg(
                stream,
                &mut [IoSliceMut::new(&mut byte)],
                &mut attached,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let files = attached.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            });
            Ok(files.flatten().next())
        })
        .await?;
    let file = received.map(File::from).filter(is_regular);
    file.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes pieces to a file, some together while the next ones are made.
pub(super) struct Writer {
    file: Arc<File>,
    queued: Vec<Bytes>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    pub(super) fn new(file: File) -> Self {
        Self { file: Arc::new(file), queued: Vec::new(), writing: None }
    }

    /// Takes a piece. It is written with others, once those before are written.
    pub(super) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.queued.push(piece);
        if self.queued.iter().map(Bytes::len).sum::<usize>() < PIECE_BYTES {
            return Ok(());
        }
        self.begin().await
    }

    async fn begin(&mut self) -> io::Result<()> {
        self.wait().await?;
        let (file, pieces) = (Arc::clone(&self.file), std::mem::take(&mut self.queued));
        self.writing = Some(spawn_blocking(move || write_all(&file, &pieces)));
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        match self.writing.take() {
            Some(writing) => joined(writing).await,
            None => Ok(()),
        }
    }

    /// Waits until all pieces are written.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.begin().await?;
        self.wait().await
    }
}

fn write_all(mut file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A piece of a file. Its buffer goes back to where it came from once nobody uses the piece.
struct Piece {
    buffer: Vec<u8>,
    back: mpsc::Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Nobody takes it after the last piece.
        drop(self.back.send(std::mem::take(&mut self.buffer)));
    }
}

/// Returns the bytes of a file, from its position on. Each piece is read while the one before is in use.
pub(crate) fn pieces_of(file: File) -> Source {
    let file = Arc::new(file);
    let (back, spare) = mpsc::channel();
    let read_next = move || {
        let (file, back) = (Arc::clone(&file), back.clone());
        let mut buffer: Vec<u8> = spare.try_recv().unwrap_or_default();
        spawn_blocking(move || {
            buffer.clear();
            buffer.reserve_exact(PIECE_BYTES);
            (&*file).take(PIECE_BYTES as u64).read_to_end(&mut buffer)?;
            Ok(Piece { buffer, back })
        })
    };
    let pieces = stream::unfold((read_next(), read_next), |(reading, read_next)| async move {
        let piece = match joined(reading).await {
            Ok(piece) if piece.buffer.is_empty() => return None,
            Ok(piece) => Ok(Bytes::from_owner(piece)),
            Err(error) => Err(format!("the file cannot be read: {}", io_text(&error))),
        };
        Some((piece, (read_next(), read_next)))
    });
    pieces.boxed()
}

async fn joined<T>(work: JoinHandle<io::Result<T>>) -> io::Result<T> {
    work.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use futures::TryStreamExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn file_of(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    #[tokio::test]
    async fn a_regular_file_is_handed_over() {
        let content: Vec<u8> = (0..=250).cycle().take(3 * PIECE_BYTES + 5).collect();
        let (command, gateway) = UnixStream::pair().unwrap();
        send(&command, &file_of(&content)).await.unwrap();
        let pieces = pieces_of(receive(&gateway).await.unwrap());
        let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), content);

        let mut kept = tempfile::tempfile().unwrap();
        send(&command, &kept).await.unwrap();
        let mut writer = Writer::new(receive(&gateway).await.unwrap());
        for piece in pieces {
            writer.write(piece).await.unwrap();
        }
        writer.flush().await.unwrap();
        kept.rewind().unwrap();
        let mut written = Vec::new();
        kept.read_to_end(&mut written).unwrap();
        assert_eq!(written, content);
    }

    #[tokio::test]
    async fn only_a_regular_file_is_taken() {
        let (mut command, gateway) = UnixStream::pair().unwrap();
        let (pipe, _other_end) = std::io::pipe().unwrap();
        send(&command, &File::from(OwnedFd::from(pipe))).await.unwrap();
        assert_eq!(receive(&gateway).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        command.write_all(&[0]).await.unwrap();
        assert_eq!(receive(&gateway).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(command);
        assert_eq!(receive(&gateway).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let mut writer = Writer::new(File::open(&path).unwrap());
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        writer.flush().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_file_is_read_into_two_buffers() {
        let mut pieces = pieces_of(file_of(&vec![7; 9 * PIECE_BYTES + 1]));
        let mut buffers = std::collections::BTreeSet::new();
        let mut read = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            buffers.insert(piece.as_ptr().addr());
            read += piece.len();
        }
        assert_eq!((read, buffers.len()), (9 * PIECE_BYTES + 1, 2));
    }
}
