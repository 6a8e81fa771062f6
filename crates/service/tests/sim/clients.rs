//! The clients of a run: SDKs that retry on another master, and record a history.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use fula_core::{BucketName, ObjectKey, bucket::ChecksumAlgorithm};
use fula_service::{
    Applied, BucketOwner, Caller, CopyRequest, CopySourceRequest, DeleteKey, Identity, Invocation,
    ListRequest, ListingLine, ObjectFacts, PutRequest, Service, ServiceError,
    body::{BodyFacts, BodyStream},
    condition::{ReadConditions, Tags, WriteConditions},
};
use fula_testkit::history::{Condition, Ending, Event, Op};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::world::{MASTERS, Master, World};

const BUCKET: &str = "bucket";

/// Name of a bucket that is created and deleted, and never written to.
const FLEETING: &str = "fleeting";

fn bucket_name(text: &str) -> BucketName {
    BucketName::parse(text).unwrap()
}

fn object_key(text: &str) -> ObjectKey {
    ObjectKey::parse(text.to_owned()).unwrap()
}

/// Name of a bucket of objects that are copied.
const SOURCES: &str = "sources";

/// Longest piece in which a body arrives, so that two of them do not fit one block.
const PIECE: usize = (1 << 19) + 1;

const CLIENTS: usize = 6;

/// Number of the first client that does not number its calls and does not retry.
const FIRST_PLAIN_CLIENT: usize = 4;
const OPERATIONS: usize = 14;

/// Number of months that clients write in, where rows of deleted buckets are dropped.
const MONTHS: usize = 3;
const KEYS: u64 = 3;
const ATTEMPTS: u32 = 5;

/// Longest wait of a client for an answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// Longest wait of a client that sends a long body.
const PATIENCE_FOR_LONG: Duration = Duration::from_mins(5);

/// The master that a request goes to.
struct At {
    world: Arc<World>,
    me: usize,
    service: Service,
}

/// The running masters, by number. A crashed one is replaced after a while.
struct Masters {
    world: Arc<World>,
    running: tokio::sync::Mutex<Vec<(u64, Master)>>,
}

impl Masters {
    async fn new(world: &Arc<World>) -> Self {
        let mut running = Vec::new();
        for me in 0..MASTERS {
            running.push((world.life(me), world.master(me).await));
        }
        Self { world: Arc::clone(world), running: tokio::sync::Mutex::new(running) }
    }

    async fn get(&self, me: usize) -> Service {
        self.master(me).await.service
    }

    async fn master(&self, me: usize) -> Master {
        let mut running = self.running.lock().await;
        if running[me].0 != self.world.life(me) {
            running[me] = (self.world.life(me), self.world.master(me).await);
        }
        running[me].1.clone()
    }
}

fn identity() -> Identity {
    Identity::of_user("key:test")
}

/// One request.
#[derive(Clone)]
struct Asked {
    op: Op,
    key: String,
    body: String,
    condition: Option<Condition>,
    /// Whether the object is a copy of one in another bucket, which is deleted meanwhile.
    is_copy: bool,
}

/// The result of one attempt.
struct Answered {
    ending: Ending,
    status: u16,
    etag: Option<String>,
    version: Option<u64>,
    listing: Vec<(String, String)>,
}

fn conditions(condition: Option<&Condition>) -> WriteConditions {
    let mut conditions = WriteConditions::default();
    match condition {
        None => {}
        Some(Condition::IfAbsent) => conditions.if_none_match = Some(Tags::Any),
        Some(Condition::IfMatch(etag)) => conditions.if_match = Some(Tags::Of(vec![etag.clone()])),
    }
    conditions
}

async fn attempt(at: &At, caller: &Caller, asked: &Asked) -> Answered {
    let service = &at.service;
    let mut answered = Answered {
        ending: Ending::Done,
        status: 200,
        etag: None,
        version: None,
        listing: Vec::new(),
    };
    let result = match asked.op {
        Op::Put if asked.key == FLEETING => {
            let created = service.create_bucket(caller, &bucket_name(FLEETING), None).await;
            answered.etag = Some(FLEETING.to_owned());
            created
        }
        Op::Delete if asked.key == FLEETING => {
            service.delete_bucket(caller, &bucket_name(FLEETING)).await
        }
        Op::Put if asked.is_copy => {
            copy(at, caller, asked).await.map(|etag| answered.etag = Some(etag))
        }
        Op::Put => put_at(at, caller, BUCKET, &asked.key, asked)
            .await
            .map(|etag| answered.etag = Some(etag)),
        Op::Delete => {
            let conditions = conditions(asked.condition.as_ref());
            let request = DeleteKey { key: object_key(&asked.key), conditions };
            service.delete_object(caller, &bucket_name(BUCKET), request).await
        }
        Op::Get => {
            let none = ReadConditions::default();
            match service
                .get_object(caller, &bucket_name(BUCKET), &object_key(&asked.key), &none)
                .await
            {
                Ok(object) => {
                    answered.etag = Some(object.record.etag.to_string());
                    Ok(())
                }
                Err(ServiceError::NoSuchKey) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Op::List => {
            let request = ListRequest { limit: 1000, ..ListRequest::default() };
            service.list_objects(caller, &bucket_name(BUCKET), &request).await.map(|listing| {
                for line in listing.lines {
                    if let ListingLine::Object(key, record) = line {
                        answered.listing.push((key, record.etag.to_string()));
                    }
                }
            })
        }
    };
    // The versions of another bucket are a different order.
    answered.version = caller.seen.version().filter(|_| asked.key != FLEETING);
    (answered.ending, answered.status) = ending_of(result, asked);
    answered
}

/// Puts an object into another bucket, and copies it while it is deleted there. Returns its entity tag.
async fn copy(at: &At, caller: &Caller, asked: &Asked) -> Result<String, ServiceError> {
    let service = &at.service;
    let key = object_key(&asked.body);
    let plain = Caller::of(identity());
    let source = Asked { condition: None, ..asked.clone() };
    put_at(at, &plain, SOURCES, key.as_str(), &source).await?;
    let request = CopyRequest {
        source: CopySourceRequest {
            owner: BucketOwner::Unsaid,
            bucket: bucket_name(SOURCES),
            key: key.clone(),
            version: None,
            conditions: ReadConditions::default(),
        },
        key: object_key(&asked.key),
        replace: None,
        tags: None,
        acl: None,
        checksum: None,
        encrypt: false,
        conditions: conditions(asked.condition.as_ref()),
    };
    let conditions = WriteConditions::default();
    let (sources, bucket) = (bucket_name(SOURCES), bucket_name(BUCKET));
    let deletion = service.delete_object(&plain, &sources, DeleteKey { key, conditions });
    let copying = service.copy_object(caller, &bucket, request);
    let (copied, _) = futures::future::join(copying, deletion).await;
    match copied {
        Ok(record) => Ok(record.etag.to_string()),
        // The source is gone: nothing was changed.
        Err(ServiceError::NoSuchKey) => Err(ServiceError::Busy(Applied::None)),
        Err(error) => Err(error),
    }
}

/// Puts an object, and returns its entity tag.
async fn put_at(
    at: &At,
    caller: &Caller,
    bucket: &str,
    key: &str,
    asked: &Asked,
) -> Result<String, ServiceError> {
    let body = Bytes::from(asked.body.clone());
    // A long body arrives in pieces.
    let pieces: Vec<_> = (0..body.len().div_ceil(PIECE)).map(|n| n * PIECE).collect();
    let (world, me) = (Arc::clone(&at.world), at.me);
    let piece = move |from: usize| {
        let body = body.slice(from..body.len().min(from + PIECE));
        let world = Arc::clone(&world);
        async move {
            if from > 0 {
                world.between_pieces(me).await;
            }
            Ok(body)
        }
    };
    let body: BodyStream = Box::pin(futures::stream::iter(pieces).then(piece));
    let body_facts = BodyFacts {
        length: None,
        length_max: 2 << 20,
        md5: None,
        keep: ChecksumAlgorithm::Crc32,
        sent: ChecksumAlgorithm::Crc32,
        checksum: None,
        trailer: None,
    };
    let request = PutRequest {
        key: object_key(key),
        facts: ObjectFacts::default(),
        conditions: conditions(asked.condition.as_ref()),
        body,
        body_facts,
    };
    let record = at.service.put_object(caller, &bucket_name(bucket), request).await?;
    Ok(record.etag.to_string())
}

/// Returns how a request ended, and its status.
fn ending_of(result: Result<(), ServiceError>, asked: &Asked) -> (Ending, u16) {
    match result {
        Ok(()) => (Ending::Done, 200),
        Err(ServiceError::PreconditionFailed(_) | ServiceError::BucketAlreadyOwned) => {
            (Ending::Refused, 412)
        }
        Err(ServiceError::NoSuchKey | ServiceError::NoSuchBucket) => (Ending::Refused, 404),
        Err(
            ServiceError::Busy(Applied::None)
            | ServiceError::Unavailable(_)
            | ServiceError::Damaged(_)
            | ServiceError::Regressed(_),
        ) => (Ending::None, 503),
        Err(ServiceError::Busy(Applied::Unknown)) => (Ending::Unknown, 503),
        Err(error) => panic!("{:?} of {} was answered {error}", asked.op, asked.key),
    }
}

/// Carries out a request as an SDK would. Returns the event for the history.
async fn call(masters: &Masters, client: usize, number: usize, asked: Asked) -> Event {
    let world = &masters.world;
    let start_ns = world.now_ns();
    let id = format!("{client}-{number}");
    let mut in_doubt = false;
    let mut last = None;
    let plain = (FIRST_PLAIN_CLIENT..CLIENTS).contains(&client);
    for n in 1..=if plain { 1 } else { ATTEMPTS } {
        let me = usize::try_from(world.draw(MASTERS as u64)).unwrap();
        let invocation = Invocation::new(&id, n).filter(|_| !plain);
        let caller = Caller { invocation, ..Caller::of(identity()) };
        let at = At { world: Arc::clone(world), me, service: masters.get(me).await };
        let patience = if asked.body.len() > PIECE { PATIENCE_FOR_LONG } else { PATIENCE };
        let answered = timeout(patience, attempt(&at, &caller, &asked)).await;
        match answered {
            Ok(answered) if matches!(answered.ending, Ending::Done | Ending::Refused) => {
                last = Some(answered);
                break;
            }
            Ok(answered) => in_doubt |= answered.ending == Ending::Unknown,
            Err(_) => in_doubt = true,
        }
        sleep(Duration::from_millis(50 + world.draw(200))).await;
    }
    let ending = if in_doubt { Ending::Unknown } else { Ending::None };
    let answered = last.unwrap_or(Answered {
        ending,
        status: 503,
        etag: None,
        version: None,
        listing: Vec::new(),
    });
    let mut event = Event {
        client,
        op: asked.op,
        key: if asked.op == Op::List { String::new() } else { asked.key },
        start_ns,
        end_ns: world.now_ns(),
        status: answered.status,
        etag: answered.etag,
        version: answered.version,
        outcome: answered.ending,
        condition: asked.condition,
        listing: answered.listing,
    };
    if event.op == Op::Put && event.key == FLEETING {
        event.etag = Some(FLEETING.to_owned());
    } else if event.op == Op::Put {
        // The entity tag that it would have written, whatever the outcome.
        let (md5, _) =
            fula_service::body::digests_of(&Bytes::from(asked.body), ChecksumAlgorithm::Crc32);
        event.etag = Some(fula_core::bucket::ETag::Md5(md5).to_string());
    }
    world.note(&format!(
        "client {client} {:?} {} {:?}: {:?} {} at {:?}",
        event.op, event.key, event.condition, event.outcome, event.status, event.version
    ));
    event
}

/// Lets a client carry out operations, and adds them to what it has done before.
async fn client(masters: &Masters, client: usize, numbers: Range<usize>, events: &mut Vec<Event>) {
    let world = &masters.world;
    for number in numbers {
        // Where masters collect, a run is long enough for one of them to lose its lease.
        sleep(Duration::from_millis(world.draw(if world.collects() { 20_000 } else { 300 }))).await;
        let key = format!("k{}", world.draw(KEYS));
        let body = format!("{client}-{number}");
        let seen = events.iter().rev().find(|event| event.key == key && event.etag.is_some());
        let if_match = seen.and_then(|event| event.etag.clone()).map(Condition::IfMatch);
        let n =
            if world.drops() && world.draw(2) == 0 { 20 + world.draw(4) } else { world.draw(24) };
        let (op, condition) = match n {
            0..5 => (Op::Get, None),
            5..9 | 20..22 => (Op::Put, None),
            9..12 => (Op::Put, Some(Condition::IfAbsent)),
            12..15 => (Op::Put, if_match.or(Some(Condition::IfAbsent))),
            17 => (Op::Delete, if_match),
            18..20 => (Op::List, None),
            _ => (Op::Delete, None),
        };
        let (key, condition) = match (op, n >= 20) {
            (Op::Put, true) => (FLEETING.to_owned(), Some(Condition::IfAbsent)),
            (_, true) => (FLEETING.to_owned(), Some(Condition::IfMatch(FLEETING.to_owned()))),
            _ => (key, condition),
        };
        let is_plain = op == Op::Put && key != FLEETING;
        let kind = if world.collects() && is_plain {
            world.draw(world.puts_of_a_kind())
        } else {
            u64::MAX
        };
        let body = if kind == 0 { body.clone() + &" ".repeat(2 * PIECE) } else { body };
        let asked = Asked { op, key, body, condition, is_copy: (1..4).contains(&kind) };
        events.push(call(masters, client, number, asked).await);
    }
}

/// Lets all clients carry out their operations. Where months pass, they do so between two operations of a client.
async fn clients(masters: &Masters) -> Vec<Event> {
    let mut events = vec![Vec::new(); CLIENTS];
    let months = if masters.world.drops() { MONTHS } else { 1 };
    for month in 0..months {
        if month > 0 {
            masters.world.pass_a_month();
        }
        let numbers = OPERATIONS * month / months..OPERATIONS * (month + 1) / months;
        let each = events.iter_mut().enumerate();
        let each = each.map(|(n, events)| client(masters, n, numbers.clone(), events));
        futures::future::join_all(each).await;
    }
    events.concat()
}

/// Collects once more, when nothing goes wrong any more, and checks that everything is there.
async fn collect_at_the_end(world: &World, masters: &Masters) {
    let Master { service, recovery } = masters.master(0).await;
    let mut tries = 0;
    while let Err(error) = world.collect(&service, recovery.as_ref().unwrap()).await {
        tries += 1;
        if tries == 5 {
            return world.violate(format!("a collection fails when all is calm: {error}"));
        }
        sleep(Duration::from_secs(30)).await;
    }
    world.check_whole().await;
}

/// Drives a run, and returns its history. Other problems are recorded in the world.
pub(crate) async fn drive(world: &Arc<World>) -> Vec<Event> {
    let masters = Masters::new(world).await;
    let first = masters.get(0).await;
    first.create_bucket(&Caller::of(identity()), &bucket_name(BUCKET), None).await.unwrap();
    if world.collects() {
        first.create_bucket(&Caller::of(identity()), &bucket_name(SOURCES), None).await.unwrap();
    }
    world.set_calm(false);
    let mut events = if world.regresses() {
        futures::future::join(clients(&masters), world.regress()).await.0
    } else {
        clients(&masters).await
    };
    world.set_calm(true);
    // Everything that is still in transit arrives.
    sleep(Duration::from_secs(30)).await;
    if world.regresses() {
        world.merge(&masters.get(0).await).await;
    }
    if world.drops() {
        for me in 1..MASTERS {
            // A master that is not running stops drops.
            masters.get(me).await;
        }
        let Master { service, recovery } = masters.master(0).await;
        world.drop_at_the_end(&service, recovery.as_ref().unwrap()).await;
    }
    if world.collects() {
        collect_at_the_end(world, &masters).await;
    }
    let mut counts = Vec::new();
    for me in 0..MASTERS {
        let number = CLIENTS + me;
        for (n, key) in (0..KEYS).enumerate() {
            let asked = Asked {
                op: Op::Get,
                key: format!("k{key}"),
                body: String::new(),
                condition: None,
                is_copy: false,
            };
            events.push(call(&masters, number, n, asked).await);
        }
        let asked = Asked {
            op: Op::List,
            key: String::new(),
            body: String::new(),
            condition: None,
            is_copy: false,
        };
        let listing = call(&masters, number, 99, asked).await;
        let service = masters.get(me).await;
        world.check_trust(me, &service);
        let info = match service.bucket(&Caller::of(identity()), &bucket_name(BUCKET)).await {
            Ok(info) => info,
            Err(error) => {
                world.violate(format!("master {me} cannot read the bucket: {error}"));
                continue;
            }
        };
        let fleeting = service.bucket(&Caller::of(identity()), &bucket_name(FLEETING)).await;
        let counted = (info.objects, info.bytes, listing.version, fleeting.is_ok());
        counts.push((counted, listing.listing.clone()));
        if listing.outcome != Ending::Done || info.objects != listing.listing.len() as u64 {
            world.violate(format!("master {me} counts {} objects: {listing:?}", info.objects));
        }
        events.push(listing);
    }
    if counts.windows(2).any(|pair| pair[0] != pair[1]) {
        world.violate(format!("masters disagree: {counts:?}"));
    }
    events
}
