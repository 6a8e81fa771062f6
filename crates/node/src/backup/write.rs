//! Writes a stream as volumes, and reports how much was written.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fula_core::error::io_text;
use fula_service::error::chain;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::{
    manifest::Volume,
    place::{Place, VolumeWriter},
};
use crate::output::note;

/// Content of a volume in bytes, after which another one begins.
const VOLUME_BYTES: u64 = 1 << 30;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Time between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Counts bytes, and reports on a terminal how far the work is.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    is_shown: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    doing: String,
    bytes: u64,
    said: Instant,
}

impl Meter {
    /// Begins to count.
    pub(crate) fn new() -> Self {
        let is_shown = std::io::stderr().is_terminal();
        let state = State { doing: String::new(), bytes: 0, said: Instant::now() };
        Self { is_shown, state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the text that describes the current step.
    pub(crate) fn say(&self, doing: String) {
        self.state.lock().doing = doing;
    }

    /// Counts bytes.
    pub(crate) fn moved(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes += bytes as u64;
        if self.is_shown && state.said.elapsed() >= REPORT_EVERY {
            state.said = Instant::now();
            note!("fula: {}: {} MiB so far", state.doing, state.bytes >> 20);
        }
    }
}

/// Writes everything that `read` returns as volumes whose names begin with `name`.
///
/// # Errors
/// The reason why it was not possible, in words for the operator. What was written is not needed.
pub(crate) async fn store(
    place: &Place,
    name: &str,
    mut read: impl AsyncRead + Unpin,
    meter: &Meter,
) -> Result<Vec<Volume>, String> {
    let failed = |error| format!("the place of the backups: {}", chain(&error));
    let mut volumes = Vec::new();
    let mut open: Option<VolumeWriter> = None;
    loop {
        let piece = match next_piece(&mut read).await {
            Ok(piece) => piece,
            Err(error) => {
                if let Some(writer) = open {
                    writer.abandon().await;
                }
                return Err(io_text(&error));
            }
        };
        if piece.is_empty() {
            break;
        }
        meter.moved(piece.len());
        let mut writer = match open.take() {
            Some(writer) => writer,
            None => place.begin_volume(format!("{name}.{:04}", volumes.len())),
        };
        if let Err(error) = writer.write(piece).await {
            writer.abandon().await;
            return Err(failed(error));
        }
        if writer.content() >= VOLUME_BYTES {
            volumes.push(writer.finish().await.map_err(failed)?);
        } else {
            open = Some(writer);
        }
    }
    if let Some(writer) = open {
        volumes.push(writer.finish().await.map_err(failed)?);
    }
    Ok(volumes)
}

async fn next_piece(read: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    while piece.len() < PIECE_BYTES && read.read_buf(&mut piece).await? > 0 {}
    Ok(piece.freeze())
}
