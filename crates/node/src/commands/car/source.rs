//! Where a CAR file comes from: a file, standard input, the RPC of a kubo, or an IPFS gateway.

use std::{os::fd::AsFd, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use fula_core::{Cid, error::io_text};
use fula_service::error::chain;
use futures::{StreamExt, stream};
use reqwest::{RequestBuilder, Response};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    admin::transfer::{Input, Source, is_regular},
    cli::{BlockSource, Endpoint},
    files,
};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest time without a byte. A server that lacks a block looks for it in the network meanwhile.
const SILENCE: Duration = Duration::from_mins(1);

/// Longest part of an error of a server that is repeated, in characters.
const SHOWN_CHARS: usize = 300;

/// Opens a source. `root` is needed for servers.
///
/// # Errors
/// The reason why it cannot be read, in words for the operator.
pub(super) async fn open(from: BlockSource, root: Option<Cid>) -> Result<Input, String> {
    let root = root.map(|root| root.to_string()).unwrap_or_default();
    match from {
        BlockSource::Car(path) if path.as_os_str() == "-" => {
            let name = "standard input";
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            let input = input.map_err(|error| format!("{name}: {}", io_text(&error)))?;
            Ok(input_of(input.into(), name.to_owned()))
        }
        BlockSource::Car(path) => open_file(&path).await,
        BlockSource::Backup(_) => Err("a backup is restored by `fula restore`".to_owned()),
        BlockSource::Kubo(kubo) => {
            let client = client()?;
            let mut url = kubo.at("api/v0/dag/export");
            url.query_pairs_mut().append_pair("arg", &root).append_pair("progress", "false");
            let response = ask(&kubo, client.post(url)).await?;
            Ok(Input::Stream(body(&kubo, response, "kubo")))
        }
        BlockSource::Gateway(gateway) => {
            let client = client()?;
            let mut url = gateway.at(&format!("ipfs/{root}"));
            url.query_pairs_mut().append_pair("format", "car");
            let accept = "application/vnd.ipld.car; version=1; order=dfs";
            let response = ask(&gateway, client.get(url).header("accept", accept)).await?;
            Ok(Input::Stream(body(&gateway, response, "the gateway")))
        }
    }
}

async fn open_file(path: &Path) -> Result<Input, String> {
    let failed = |error: std::io::Error| format!("{}: {}", path.display(), io_text(&error));
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    Ok(input_of(file.into_std().await, path.display().to_string()))
}

fn input_of(file: std::fs::File, name: String) -> Input {
    if is_regular(&file) {
        return Input::File(file);
    }
    Input::Stream(pieces(tokio::fs::File::from_std(file), name))
}

fn pieces(read: impl AsyncRead + Send + Unpin + 'static, name: String) -> Source {
    let read = stream::try_unfold((read, name), |(mut read, name)| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        match read.read_buf(&mut piece).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((piece.freeze(), (read, name)))),
            Err(error) => Err(format!("{name}: {}", io_text(&error))),
        }
    });
    read.boxed()
}

fn client() -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
    client.build().map_err(|error| chain(&error))
}

/// Sends a request, and checks that the server accepts it.
async fn ask(endpoint: &Endpoint, request: RequestBuilder) -> Result<Response, String> {
    let mut request = request;
    if let Some(file) = &endpoint.token_file {
        let token = files::read_secret(file).map_err(|error| error.to_string())?;
        request = request.bearer_auth(String::from_utf8_lossy(&token));
    }
    let url = endpoint.shown();
    let response = request.send().await;
    let response = response
        .map_err(|error| format!("{url} does not answer: {}", chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let text: String = text.trim().chars().take(SHOWN_CHARS).collect();
    Err(format!("{url} answers {status}: {text}"))
}

/// Returns the body of an answer. Servers tell a fault by an early end, which the import notices.
fn body(endpoint: &Endpoint, response: Response, name: &'static str) -> Source {
    let url = endpoint.shown().to_owned();
    let read = response.bytes_stream().map(move |piece| -> Result<Bytes, String> {
        piece.map_err(|error| {
            let why = if error.is_timeout() {
                format!("no byte for {} s; it may lack a block", SILENCE.as_secs())
            } else {
                chain(&error.without_url())
            };
            format!("{name} at {url} broke the file off: {why}")
        })
    });
    read.boxed()
}
