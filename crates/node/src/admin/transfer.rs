//! Buckets as CAR files on their way over the socket.
//!
//! A request that exports is answered with any number of pieces, each a line that tells its length and then
//! the bytes, and with the answer at the end. A request that imports is followed by frames: 4 bytes of length,
//! big-endian, and that many bytes; a length of 0 is the end of the file.
//!
//! A regular file is handed to the gateway instead, which reads or writes it itself ([`handed`]).

mod handed;

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use fula_core::{BucketName, Cid, StoreError};
use fula_service::{BucketCar, ImportTarget, Imported, ServiceError};
use futures::{StreamExt, pin_mut, stream, stream::BoxStream};
use serde_json::{Value, json};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
        BufReader,
    },
    net::{UnixStream, unix::OwnedWriteHalf},
};

pub(crate) use self::handed::is_regular;
pub(crate) use super::request::{Export, ForBackup, Import};
use super::{
    Answer, LINE_BYTES_MAX, Refused, backup::address, find_row, request::Request, send, users,
};
use crate::{
    files::{self, denied},
    node::Node,
    user::owner_id,
};

/// Most bytes of a frame or a piece.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Bytes that are written to a file that was handed over, after which the command gets a report.
const TOLD_BYTES: usize = 32 << 20;

/// The bytes of a file, or the reason why they end early.
pub(crate) type Source = BoxStream<'static, Result<Bytes, String>>;

/// Where the bytes of a file go.
pub(crate) type Sink<'a> = &'a mut (dyn AsyncWrite + Send + Unpin);

/// What an import reads.
pub(crate) enum Input {
    /// A regular file.
    File(std::fs::File),
    /// Anything else.
    Stream(Source),
}

impl Input {
    fn into_source(self) -> Source {
        match self {
            Self::File(file) => handed::pieces_of(file),
            Self::Stream(source) => source,
        }
    }
}

/// How the bytes of an export reach their place.
enum Way<'a> {
    /// They are written to it.
    Plain(Sink<'a>),
    /// The same, each piece after a line with its length.
    Framed(Sink<'a>),
    /// They are written to a file of the command, which hears now and then how many those were.
    File { file: handed::Writer, command: Sink<'a>, untold: usize },
}

impl Way<'_> {
    async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(&piece).await,
            Self::Framed(sink) => {
                for piece in piece.chunks(FRAME_BYTES_MAX) {
                    send(sink, &Answer::Data(piece.len())).await?;
                    sink.write_all(piece).await?;
                }
                Ok(())
            }
            Self::File { file, command, untold } => {
                *untold += piece.len();
                file.write(piece).await?;
                if *untold >= TOLD_BYTES {
                    // A command that was ended is noticed here.
                    send(command, &Answer::Written(std::mem::take(untold))).await?;
                }
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(sink) | Self::Framed(sink) => sink.flush().await,
            Self::File { file, .. } => file.flush().await,
        }
    }
}

/// Writes a bucket as a file.
async fn write_bucket(node: &Node, request: &Export, way: Way<'_>) -> Result<Value, Refused> {
    if let Some(wanted) = &request.backup {
        return write_for_backup(node, request, wanted, way).await;
    }
    let row = find_row(node, &request.bucket, request.user.as_deref()).await?;
    let (version, since) = (request.version, request.since);
    let car = node.service.export(&row.address, version, since).await?;
    let mut told = json!({"since": since});
    write_car(car, way, &mut told).await?;
    Ok(told)
}

/// Does the same for a backup. The answer is that the bucket is gone, if it was deleted meanwhile.
async fn write_for_backup(
    node: &Node,
    request: &Export,
    wanted: &ForBackup,
    way: Way<'_>,
) -> Result<Value, Refused> {
    let owner = request.user.as_deref().unwrap_or_default();
    let address = address(owner, &request.bucket)?;
    let older = wanted.older.as_deref().map(root).transpose()?;
    let (car, (objects, bytes)) = match node.service.backup_car(&address, older).await {
        Err(ServiceError::NoSuchBucket) => return Ok(json!({"gone": true})),
        car => car?,
    };
    let left_out = Arc::clone(&car.left_out);
    let mut told = json!({"objects": objects, "bytes": bytes});
    write_car(car, way, &mut told).await?;
    told["left_out"] = json!(left_out.load(Ordering::Relaxed));
    Ok(told)
}

/// Writes a file, and adds to `told` what it is.
async fn write_car(mut car: BucketCar, mut way: Way<'_>, told: &mut Value) -> Result<(), Refused> {
    let mut written = 0;
    while let Some(piece) = car.bytes.next().await {
        let piece = piece.map_err(|error| unreadable(car.bucket.name.as_str(), error))?;
        written += piece.len();
        way.write(piece).await?;
    }
    way.flush().await?;
    told["bucket"] = json!(car.bucket.name.as_str());
    told["owner"] = json!(car.bucket.owner.to_string());
    told["root"] = json!(car.root.to_string());
    told["version"] = json!(car.version);
    told["file_bytes"] = json!(written);
    Ok(())
}

fn root(text: &str) -> Result<Cid, Refused> {
    text.parse().map_err(|_| Refused(format!("{text} is no CID of a bucket root")))
}

/// Returns the error for a block that cannot be exported.
fn unreadable(bucket: &str, error: StoreError) -> Refused {
    match error {
        StoreError::Missing { cid } => Refused(format!(
            "the block {cid} of bucket {bucket} is not in the block store, and the file is not whole: if the \
             bucket has mapped objects, their leaves are on storage nodes (FULA_INGEST_COPY=on keeps copies); \
             otherwise run fula fsck"
        )),
        error => error.into(),
    }
}

/// Makes a bucket of a file.
async fn read_bucket(
    node: &Node,
    request: &Import,
    source: BoxStream<'_, Result<Bytes, String>>,
) -> Result<Value, Refused> {
    let parsed = |text: &String| {
        let name = BucketName::parse_stored(text);
        name.map_err(|error| Refused(format!("{text} is no name of a bucket: {error}")))
    };
    let target = ImportTarget {
        owner: request.user.as_deref().map(owner_id),
        name: request.bucket.as_ref().map(parsed).transpose()?,
        root: request.root.as_deref().map(root).transpose()?,
        without_mapped: request.without_mapped,
    };
    let mut import = node.service.begin_import().await?;
    pin_mut!(source);
    while let Some(piece) = source.next().await {
        import.push(&piece.map_err(Refused)?).await?;
        import.expect_root(target.root)?;
    }
    let done = import.finish(target).await?;
    let Imported { bucket, root, version, file_root, blocks, objects: (count, bytes), .. } = done;
    let users = users::by_owner(node).await;
    Ok(json!({
        "bucket": bucket.name.as_str(),
        "owner": bucket.owner.to_string(),
        "user": users.get(&bucket.owner),
        "root": root.to_string(),
        "version": version,
        "file_root": file_root.to_string(),
        "blocks": blocks,
        "objects": count,
        "bytes": bytes,
        "already": done.already,
        "without_policy": done.without_policy,
    }))
}

fn answer(result: Result<Value, Refused>) -> Answer {
    match result {
        Ok(value) => Answer::Ok(value),
        Err(Refused(text)) => Answer::Error(text),
    }
}

/// Carries out an export in this process.
pub(crate) async fn export_here(node: &Node, request: &Export, sink: Sink<'_>) -> Answer {
    answer(write_bucket(node, request, Way::Plain(sink)).await)
}

/// Carries out an import in this process.
pub(crate) async fn import_here(node: &Node, request: &Import, input: Input) -> Answer {
    answer(read_bucket(node, request, input.into_source()).await)
}

/// Answers an export that came over the socket.
pub(super) async fn export_to(node: &Node, request: &Export, write: Sink<'_>) -> Answer {
    answer(write_bucket(node, request, Way::Framed(write)).await)
}

/// Answers an export to a file that the command hands over.
pub(super) async fn export_to_file(
    node: &Node,
    request: &Export,
    write: &mut OwnedWriteHalf,
) -> io::Result<Answer> {
    send(write, &Answer::Hand).await?;
    let file = handed::Writer::new(handed::receive(write.as_ref()).await?);
    let way = Way::File { file, command: write, untold: 0 };
    Ok(answer(write_bucket(node, request, way).await))
}

/// Answers an import of a file that the command hands over. If the command ends before the file does, nothing is
/// imported.
pub(super) async fn import_from_file(
    node: &Node,
    request: &Import,
    read: &mut (dyn AsyncRead + Send + Unpin),
    write: &mut OwnedWriteHalf,
) -> io::Result<Answer> {
    send(write, &Answer::Hand).await?;
    let pieces = handed::pieces_of(handed::receive(write.as_ref()).await?);
    // The command sends nothing more: there is something to read once it has ended.
    let watched = stream::unfold((pieces, read), |(mut pieces, read)| async move {
        let piece = tokio::select! {
            biased;
            _ = read.read_u8() => Some(Err("the command was ended".to_owned())),
            piece = pieces.next() => piece,
        };
        piece.map(|piece| (piece, (pieces, read)))
    });
    Ok(answer(read_bucket(node, request, watched.boxed()).await))
}

/// Answers an import that came over the socket.
pub(super) async fn import_from(
    node: &Node,
    request: &Import,
    read: &mut (dyn AsyncRead + Send + Unpin),
) -> Answer {
    let frames = stream::unfold(Some(read), |read| async move {
        let read = read?;
        match next_frame(read).await {
            Ok(Some(frame)) => Some((Ok(frame), Some(read))),
            Ok(None) => None,
            Err(_) => Some((Err("the file ended early".to_owned()), None)),
        }
    });
    answer(read_bucket(node, request, frames.boxed()).await)
}

async fn next_frame(read: &mut (dyn AsyncRead + Send + Unpin)) -> io::Result<Option<Bytes>> {
    let length = usize::try_from(read.read_u32().await?).unwrap_or(usize::MAX);
    if length == 0 {
        return Ok(None);
    }
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    read.read_exact(&mut frame).await?;
    Ok(Some(frame.into()))
}

/// Connects to the gateway that runs on a data directory. Returns `None` if none runs.
///
/// # Errors
/// The reason why it cannot be reached, in words for the operator.
pub(crate) async fn connect(data_dir: &Path) -> Option<Result<UnixStream, String>> {
    match UnixStream::connect(&files::socket_path(data_dir)).await {
        Ok(stream) => Some(Ok(stream)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Some(Err(denied(data_dir).to_string()))
        }
        Err(_) => None,
    }
}

/// Has a gateway export a bucket, and writes the file to `sink`.
///
/// # Errors
/// The reason why the file is not whole, in words for the operator.
pub(crate) async fn export_from(
    mut stream: UnixStream,
    request: Export,
    sink: Sink<'_>,
) -> Result<Answer, String> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    send(&mut write, &Request::Export(request)).await.map_err(|error| lost(&error))?;
    loop {
        match next_answer(&mut read).await? {
            Answer::Data(length) if length <= FRAME_BYTES_MAX => {
                let mut piece = vec![0; length];
                read.read_exact(&mut piece).await.map_err(|error| lost(&error))?;
                sink.write_all(&piece).await.map_err(|error| fula_core::error::io_text(&error))?;
            }
            answer => {
                sink.flush().await.map_err(|error| fula_core::error::io_text(&error))?;
                return Ok(answer);
            }
        }
    }
}

/// Has a gateway export a bucket to a file. `written` gets the number of bytes that were added to the file.
///
/// # Errors
/// The reason why the file is not whole, in words for the operator.
pub(crate) async fn export_file_from(
    mut stream: UnixStream,
    request: Export,
    file: &std::fs::File,
    mut written: impl FnMut(usize),
) -> Result<Answer, String> {
    hand(&mut stream, Request::ExportFile(request), file).await?;
    let mut read = BufReader::new(stream);
    loop {
        match next_answer(&mut read).await? {
            Answer::Written(bytes) => written(bytes),
            answer => return Ok(answer),
        }
    }
}

/// Has a gateway import a file, from its position on.
///
/// # Errors
/// The reason why there is no answer, in words for the operator.
pub(crate) async fn import_file_to(
    mut stream: UnixStream,
    request: Import,
    file: &std::fs::File,
) -> Result<Answer, String> {
    hand(&mut stream, Request::ImportFile(request), file).await?;
    next_answer(&mut BufReader::new(stream)).await
}

/// Sends a request, and hands over its file when the gateway asks for it.
async fn hand(
    stream: &mut UnixStream,
    request: Request,
    file: &std::fs::File,
) -> Result<(), String> {
    send(stream, &request).await.map_err(|error| lost(&error))?;
    // The gateway sends nothing more before it has the file.
    match next_answer(&mut BufReader::new(&mut *stream)).await? {
        Answer::Hand => handed::send(stream, file).await.map_err(|error| lost(&error)),
        Answer::Error(text) => Err(text),
        _ => Err(lost(&io::ErrorKind::InvalidData.into())),
    }
}

/// Has a gateway import what a stream has.
///
/// # Errors
/// The reason why there is no answer, in words for the operator.
pub(crate) async fn import_to(
    mut stream: UnixStream,
    request: Import,
    mut source: Source,
) -> Result<Answer, String> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    send(&mut write, &Request::Import(request)).await.map_err(|error| lost(&error))?;
    let sending = async {
        while let Some(piece) = source.next().await {
            for frame in piece?.chunks(FRAME_BYTES_MAX) {
                let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                // A gateway that refuses the file has closed the connection, and says why.
                if write.write_u32(length).await.is_err() || write.write_all(frame).await.is_err() {
                    return Ok::<(), String>(());
                }
            }
        }
        drop(write.write_u32(0).await);
        Ok(())
    };
    let answering = next_answer(&mut read);
    pin_mut!(sending, answering);
    tokio::select! {
        biased;
        answer = &mut answering => answer,
        sent = &mut sending => {
            sent?;
            answering.await
        }
    }
}

async fn next_answer(read: &mut (dyn AsyncBufRead + Send + Unpin)) -> Result<Answer, String> {
    let mut line = String::new();
    let read = read.take(LINE_BYTES_MAX).read_line(&mut line).await;
    if read.map_err(|error| lost(&error))? == 0 {
        return Err(lost(&io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&line).map_err(|_| lost(&io::ErrorKind::InvalidData.into()))
}

/// Returns why a running gateway did not answer.
pub(super) fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            "this fula does not understand the gateway's answer: use the fula of the gateway's version"
        }
        _ => "the gateway ended before it had answered: look at its log, and run the command again",
    }
    .to_owned()
}
