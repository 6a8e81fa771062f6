//! Listing all objects with one metadata value each: in one stream from a Fula gateway (ADR 0057), and in pages
//! without the values from other servers.

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http::Method;

use crate::{
    client::Bucket,
    error::{Error, Result},
    items::{ItemStream, Listed, Told},
    list::{Entry, ListOptions},
    request::Request,
};

/// Where the objects come from.
enum Origin {
    /// Nothing was asked for yet.
    Begin,
    /// A stream under way.
    Stream(ItemStream),
    /// Pages, of a server without the stream.
    Pages(BoxStream<'static, Result<Entry>>),
    /// All objects were returned.
    End,
}

struct Snapshot {
    bucket: Bucket,
    prefix: String,
    value: Option<String>,
    origin: Origin,
    /// Key of the last object of the stream, after which it is continued.
    last: Option<String>,
    /// Attempts since an object arrived.
    attempt: u32,
}

impl Bucket {
    /// Lists the objects whose keys begin with `prefix`, in order of their keys, each with the metadata value
    /// `value` (a name without `x-amz-meta-`).
    ///
    /// A Fula gateway sends them in one stream of one version of the bucket. If it breaks off, the rest comes
    /// from the version of that moment. Other servers are asked for pages, and tell no values.
    pub fn list_with(
        &self,
        prefix: &str,
        value: Option<&str>,
    ) -> impl Stream<Item = Result<Listed>> + Send + use<> {
        let snapshot = Snapshot {
            bucket: self.clone(),
            prefix: prefix.to_owned(),
            value: value.map(str::to_owned),
            origin: Origin::Begin,
            last: None,
            attempt: 0,
        };
        stream::try_unfold(snapshot, |mut snapshot| async {
            let listed = snapshot.next().await?;
            Ok(listed.map(|listed| (listed, snapshot)))
        })
    }

    /// Opens the stream of all objects at one version, those after the key `after` if there is one; `None` if the
    /// server does not offer it.
    ///
    /// # Errors
    /// As for every request.
    pub(crate) async fn streamed(
        &self,
        prefix: &str,
        value: Option<&str>,
        after: Option<&str>,
    ) -> Result<Option<ItemStream>> {
        let mut request = Request::of_bucket(Method::GET, self.name())
            .query("fula-list", "")
            .query("prefix", prefix);
        if let Some(value) = value {
            request = request.query("meta", value);
        }
        if let Some(after) = after {
            request = request.query("after", after);
        }
        match ItemStream::open(self, &request, value.is_some()).await {
            // Servers that do not know the parameter may refuse it. Callers without a credential get pages only.
            Err(
                Error::Http { status: 400 | 405 | 501, .. }
                | Error::Unsupported(_)
                | Error::Denied { .. },
            ) => Ok(None),
            opened => opened,
        }
    }
}

impl Snapshot {
    async fn next(&mut self) -> Result<Option<Listed>> {
        loop {
            match &mut self.origin {
                Origin::Begin => self.origin = self.open().await?,
                Origin::End => return Ok(None),
                Origin::Pages(pages) => match pages.next().await.transpose()? {
                    Some(Entry::Object { key, size, etag, modified }) => {
                        let value = Told::Unasked;
                        return Ok(Some(Listed { key, size, etag, modified, value }));
                    }
                    Some(Entry::Prefix(_)) => {}
                    None => self.origin = Origin::End,
                },
                Origin::Stream(stream) => {
                    if let Some(listed) = stream.items.found.pop_front() {
                        self.attempt = 0;
                        self.last = Some(listed.key.clone());
                        return Ok(Some(listed));
                    }
                    if stream.items.is_done {
                        self.origin = Origin::End;
                    } else if let Err(error) = stream.read().await {
                        self.again(error).await?;
                    }
                }
            }
        }
    }

    /// Asks for the stream, or else for pages.
    async fn open(&mut self) -> Result<Origin> {
        let (value, last) = (self.value.as_deref(), self.last.as_deref());
        if let Some(stream) = self.bucket.streamed(&self.prefix, value, last).await? {
            return Ok(Origin::Stream(stream));
        }
        let options = ListOptions { start_after: self.last.clone(), ..ListOptions::default() };
        Ok(Origin::Pages(self.bucket.list(&self.prefix, options).boxed()))
    }

    /// Lets a stream that broke off be asked for again, after the last object.
    async fn again(&mut self, error: Error) -> Result<()> {
        self.attempt += 1;
        self.bucket.client().retry_policy().rest(self.attempt, error).await?;
        self.origin = Origin::Begin;
        Ok(())
    }
}
