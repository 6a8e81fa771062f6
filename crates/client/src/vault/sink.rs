//! Opening what arrives on a thread of its own, while the network goes on.

use std::{
    io::{self, Write},
    mem,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::VaultGet;
use crate::{
    download::WriteBehind,
    error::{Error, Result},
};

/// Pieces that have arrived and wait to be opened. A connection hands out up to 400 KiB at a time.
const WAITING: usize = 4;

impl VaultGet {
    /// Writes what is left to `out`, and returns `out`. It is opened and written on a thread of its own. `shown` is what
    /// errors call `out`.
    ///
    /// # Errors
    /// [`Error::Io`] for `out`, and as for [`VaultGet::chunk`]. What was written before is verified.
    pub async fn write_to<W: Write + Send + 'static>(mut self, out: W, shown: &str) -> Result<W> {
        self.drain(out, shown, None).await
    }

    /// Writes what is left to `out`. If `out` is a file, `behind` brings it to stable storage meanwhile.
    pub(super) async fn drain<W: Write + Send + 'static>(
        &mut self,
        mut out: W,
        shown: &str,
        mut behind: Option<WriteBehind>,
    ) -> Result<W> {
        let (ready, body) = (mem::take(&mut self.ready), self.body.take());
        let (send, mut arrived) = mpsc::channel::<Bytes>(WAITING);
        let ((mut body, reader), name) = (body.unzip(), shown.to_owned());
        let writing = tokio::task::spawn_blocking(move || {
            let failed = |error| Error::io(&name)(error);
            out.write_all(&ready).map_err(failed)?;
            if let Some(mut reader) = reader {
                let mut plain = Vec::new();
                while let Some(sealed) = arrived.blocking_recv() {
                    reader.push(&sealed, &mut plain)?;
                    out.write_all(&plain).map_err(failed)?;
                    plain.clear();
                }
                reader.finish()?;
            }
            out.flush().map_err(failed)?;
            Ok(out)
        });
        let receiving = async {
            let Some(body) = &mut body else { return Ok(()) };
            while let Some(sealed) = body.chunk().await? {
                let bytes = sealed.len();
                if send.send(sealed).await.is_err() {
                    // The thread has failed, and says why.
                    break;
                }
                if let Some(behind) = &mut behind {
                    behind.wrote(bytes).await.map_err(Error::io(shown))?;
                }
            }
            match &mut behind {
                Some(behind) => behind.finish().await.map_err(Error::io(shown)),
                None => Ok(()),
            }
        };
        let received = receiving.await;
        drop(send);
        let written = writing.await.map_err(|error| Error::io(shown)(io::Error::other(error)))?;
        received.and(written)
    }
}
