//! The parts of a form: fields, which are bounded, and the file, which is streamed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use s3s::{Body, S3Error, S3Result, StdError, s3_error};

use crate::{
    error::{custom, with_argument, with_detail},
    request_body::Lent,
};

/// Largest length of everything before the file, in bytes, as on AWS.
const FIELDS_BYTES_MAX: usize = 20 << 10;

/// Longest boundary, in bytes. RFC 2046 allows 70.
const BOUNDARY_MAX: usize = 200;

/// A form whose fields were read. The file has not been.
pub(crate) struct Form {
    /// Names in lower case, and values.
    fields: Vec<(String, String)>,
    file_name: String,
    rest: Option<Rest>,
}

/// The part of the body that was not consumed.
struct Rest {
    body: Body,
    read: BytesMut,
    delimiter: Vec<u8>,
}

fn malformed() -> S3Error {
    let text = "The body of your POST request is not well-formed multipart/form-data.";
    s3_error!(MalformedPOSTRequest, "{text}")
}

fn too_long() -> S3Error {
    let text = "Your POST request fields preceding the upload file were too large.";
    custom("MaxPostPreDataLengthExceededError", StatusCode::BAD_REQUEST, text.to_owned())
}

/// Returns the delimiter of the parts: a line end and the boundary.
fn delimiter(headers: &HeaderMap) -> S3Result<Vec<u8>> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = value.unwrap_or_default().split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    let boundary = boundary.filter(|text| (1..=BOUNDARY_MAX).contains(&text.len()));
    let boundary = boundary.ok_or_else(malformed)?;
    Ok([b"\r\n--", boundary.as_bytes()].concat())
}

fn position(text: &[u8], pattern: &[u8]) -> Option<usize> {
    let first = *pattern.first()?;
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == first) {
        let at = from + at;
        if text.len() < at + pattern.len() {
            return None;
        }
        if text[at..].starts_with(pattern) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

impl Rest {
    /// Reads more of the body.
    async fn more(&mut self) -> S3Result<()> {
        let frame = self.body.frame().await.ok_or_else(malformed)?;
        let frame = frame.map_err(|_| s3_error!(IncompleteBody))?;
        if let Ok(data) = frame.into_data() {
            self.read.extend_from_slice(&data);
        }
        Ok(())
    }

    /// Returns the bytes before `pattern`, and consumes both. `left` is the number of bytes that may be read
    /// for it.
    async fn until(&mut self, pattern: &[u8], left: &mut usize) -> S3Result<BytesMut> {
        loop {
            if let Some(at) = position(&self.read, pattern) {
                let end = at + pattern.len();
                *left = left.checked_sub(end).ok_or_else(too_long)?;
                let mut taken = self.read.split_to(end);
                taken.truncate(at);
                return Ok(taken);
            }
            if self.read.len() > *left {
                return Err(too_long());
            }
            self.more().await?;
        }
    }

    /// Consumes what follows a delimiter. Returns whether it was the last one.
    async fn is_end(&mut self) -> S3Result<bool> {
        while self.read.len() < 2 {
            self.more().await?;
        }
        match self.read.split_to(2).as_ref() {
            b"\r\n" => Ok(false),
            b"--" => Ok(true),
            _ => Err(malformed()),
        }
    }
}

/// The head of a part.
struct Head {
    name: String,
    file_name: String,
}

impl Head {
    fn parse(bytes: &[u8]) -> S3Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
        let mut head = Self { name: String::new(), file_name: String::new() };
        for line in text.split("\r\n") {
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            if name.eq_ignore_ascii_case("content-disposition") {
                head.name = parameter(value, "name").unwrap_or_default().to_ascii_lowercase();
                head.file_name = parameter(value, "filename").unwrap_or_default();
            }
        }
        if head.name.is_empty() { Err(malformed()) } else { Ok(head) }
    }
}

/// Returns a parameter of `Content-Disposition`, quoted or not.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (found, next) = if let Some(quoted) = after.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            let end = after.find(';').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(found);
        }
        rest = next.trim_start().strip_prefix(';')?;
    }
}

/// Returns a text up to its closing quote, and what follows.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut found = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((found, &quoted[at + 1..])),
            // Only quotes are escaped: other browsers send paths with backslashes.
            '\\' if quoted[at..].starts_with("\\\"") => {
                found.push('"');
                characters.next();
            }
            c => found.push(c),
        }
    }
    None
}

impl Form {
    /// Reads the fields of a form up to its file. Fields after the file do not count.
    ///
    /// # Errors
    /// 400 for a form that is malformed, has too much before its file, or has no file.
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> S3Result<Self> {
        let delimiter = delimiter(headers)?;
        // The first delimiter has no line end before it.
        let mut rest = Rest { body, read: BytesMut::from(&b"\r\n"[..]), delimiter };
        let mut left = FIELDS_BYTES_MAX;
        let delimiter = rest.delimiter.clone();
        rest.until(&delimiter, &mut left).await?;
        let mut form = Self { fields: Vec::new(), file_name: String::new(), rest: None };
        while !rest.is_end().await? {
            let head = Head::parse(&rest.until(b"\r\n\r\n", &mut left).await?)?;
            if head.name == "file" {
                // The type of the object is a field. That of the part does not count, as on AWS.
                form.file_name = head.file_name;
                form.rest = Some(rest);
                return Ok(form);
            }
            let value = rest.until(&delimiter, &mut left).await?;
            let value = String::from_utf8(value.to_vec()).map_err(|_| malformed())?;
            if form.field(&head.name).is_some() {
                return Err(malformed());
            }
            form.fields.push((head.name, value));
        }
        let error =
            s3_error!(InvalidArgument, "POST requires exactly one file upload per request.");
        Err(with_argument(error, "file", &http::HeaderValue::from_static("0")))
    }

    /// Returns a form with these fields and no file.
    #[cfg(test)]
    pub(super) fn of(fields: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self { fields: fields.iter().map(own).collect(), file_name: String::new(), rest: None }
    }

    /// Returns the value of a field, by its name in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        if let Some(field) = self.fields.iter_mut().find(|(found, _)| found == name) {
            field.1 = value;
        }
    }

    /// Returns the name of the file without directories.
    pub(super) fn file_name(&self) -> &str {
        self.file_name.rsplit(['/', '\\']).next().unwrap_or_default()
    }

    /// Returns the content of the file, whose length must be in the range.
    pub(super) fn file(self, (min, max): (u64, u64), lent: Lent) -> Body {
        match self.rest {
            Some(rest) => {
                let file = File { rest, min, max, length: 0, is_done: false, lent };
                Body::http_body_unsync(file)
            }
            None => Body::empty(),
        }
    }
}

/// The content of a file. It ends at the next delimiter.
struct File {
    rest: Rest,
    min: u64,
    max: u64,
    length: u64,
    is_done: bool,
    lent: Lent,
}

impl File {
    /// Takes what certainly belongs to the file.
    fn take(&mut self) -> Result<Option<Bytes>, S3Error> {
        let Rest { read, delimiter, .. } = &mut self.rest;
        let end = position(read, delimiter);
        self.is_done = end.is_some();
        let safe = end.unwrap_or_else(|| (read.len() + 1).saturating_sub(delimiter.len()));
        let taken = read.split_to(safe).freeze();
        self.length += taken.len() as u64;
        if self.length > self.max {
            return Err(self.wrong_length(true));
        }
        if self.is_done && self.length < self.min {
            return Err(self.wrong_length(false));
        }
        Ok(Some(taken).filter(|taken| !taken.is_empty()))
    }

    fn wrong_length(&self, is_long: bool) -> S3Error {
        let Self { length, min, max, .. } = self;
        if is_long {
            let detail = format!(
                "<ProposedSize>{length}</ProposedSize><MaxSizeAllowed>{max}</MaxSizeAllowed>"
            );
            let text = "Your proposed upload exceeds the maximum allowed size";
            return with_detail(s3_error!(EntityTooLarge, "{text}"), &detail);
        }
        let detail =
            format!("<ProposedSize>{length}</ProposedSize><MinSizeAllowed>{min}</MinSizeAllowed>");
        let text = "Your proposed upload is smaller than the minimum allowed size";
        with_detail(s3_error!(EntityTooSmall, "{text}"), &detail)
    }

    fn fail(&mut self, error: S3Error) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.is_done = true;
        let text = error.message().unwrap_or("the form could not be read").to_owned();
        self.lent.note_fault(error);
        Poll::Ready(Some(Err(text.into())))
    }
}

impl http_body::Body for File {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        loop {
            if this.is_done {
                return Poll::Ready(None);
            }
            match this.take() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(error) => return this.fail(error),
            }
            if this.is_done {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.rest.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.rest.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    this.is_done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return this.fail(malformed()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
