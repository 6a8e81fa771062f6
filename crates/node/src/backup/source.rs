//! Who reads and writes buckets for a backup: the gateway that runs on the data directory, or this process.

use std::{fs::File, path::PathBuf, sync::Arc};

use serde_json::Value;

use crate::{
    admin::{
        self, Answer, Request, Step,
        transfer::{self, Export, Import, Input, Sink},
    },
    files::ScratchDir,
    node::Node,
};

/// A gateway, or the stores that this process has opened.
pub(crate) enum Source {
    /// The gateway that runs on this data directory.
    Gateway(PathBuf),
    /// This process, and the temporary data directory that it has made, if it needed one.
    Here(Arc<Node>, Option<ScratchDir>),
}

const ENDED: &str = "the gateway has ended: look at its log, and run the command again";

impl Source {
    /// Carries out a request.
    ///
    /// # Errors
    /// The reason why it failed, in words for the operator.
    pub(crate) async fn ask(&self, request: Request) -> Result<Value, String> {
        let answer = match self {
            Self::Gateway(dir) => admin::ask(dir, &request, |_| {}).await.ok_or(ENDED)??,
            Self::Here(node, _scratch) => {
                let mut work = admin::begin(node, request);
                loop {
                    if let Step::Done(answer) = work.next().await {
                        break answer;
                    }
                }
            }
        };
        value_of(answer)
    }

    /// Writes a bucket as a CAR file to `sink`.
    ///
    /// # Errors
    /// The reason why the file is not whole, in words for the operator.
    pub(crate) async fn export(&self, request: Export, sink: Sink<'_>) -> Result<Value, String> {
        let answer = match self {
            Self::Gateway(dir) => {
                let stream = transfer::connect(dir).await.ok_or(ENDED)??;
                transfer::export_from(stream, request, sink).await?
            }
            Self::Here(node, _scratch) => transfer::export_here(node, &request, sink).await,
        };
        value_of(answer)
    }

    /// Has the gateway write a bucket as a CAR file to a regular file. `written` gets the number of bytes
    /// that were added to the file. Returns `None` if no gateway runs.
    ///
    /// # Errors
    /// The reason why the file is not whole, in words for the operator.
    pub(crate) async fn export_file(
        &self,
        request: Export,
        file: &File,
        written: impl FnMut(usize),
    ) -> Option<Result<Value, String>> {
        let Self::Gateway(dir) = self else { return None };
        let exported = async {
            let stream = transfer::connect(dir).await.ok_or(ENDED)??;
            value_of(transfer::export_file_from(stream, request, file, written).await?)
        };
        Some(exported.await)
    }

    /// Makes a bucket of a CAR file.
    ///
    /// # Errors
    /// The reason why there is no such bucket now, in words for the operator.
    pub(crate) async fn import(&self, request: Import, input: Input) -> Result<Value, String> {
        let answer = match self {
            Self::Gateway(dir) => {
                let stream = transfer::connect(dir).await.ok_or(ENDED)??;
                match input {
                    Input::File(file) => transfer::import_file_to(stream, request, &file).await?,
                    Input::Stream(source) => transfer::import_to(stream, request, source).await?,
                }
            }
            Self::Here(node, _scratch) => transfer::import_here(node, &request, input).await,
        };
        value_of(answer)
    }
}

fn value_of(answer: Answer) -> Result<Value, String> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(text),
        _ => Err("the gateway's answer is incomplete".to_owned()),
    }
}
