//! A broker as a child process, and the clients that talk to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message, Timestamp, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long anything that should work may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory on the disk that the build is on, removed with the value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the build directory is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running broker. Dropping it kills it.
pub(crate) struct Broker {
    child: Child,
    /// Bootstrap address.
    pub(crate) address: String,
}

impl Broker {
    /// Starts one on a free port, with small files so that they are rolled and settled in tests.
    pub(crate) fn start(directory: &Directory, arguments: &[&str]) -> Self {
        Self::start_at(directory, "127.0.0.1:0", arguments)
    }

    /// As [`Broker::start`], where clients of an earlier one look for it.
    pub(crate) fn start_at(directory: &Directory, address: &str, arguments: &[&str]) -> Self {
        Self::launch(directory, address, arguments, ("warn", Stdio::inherit()))
    }

    /// As [`Broker::start`], with everything that it has to say written to a file.
    pub(crate) fn start_logging(directory: &Directory, arguments: &[&str], log: &Path) -> Self {
        let log = fs::File::create(log).expect("the build directory is writable");
        let log = ("info", Stdio::from(log));
        Self::launch(directory, "127.0.0.1:0", arguments, log)
    }

    fn launch(
        directory: &Directory,
        address: &str,
        arguments: &[&str],
        (level, log): (&str, Stdio),
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["serve", "--kafka", address, "--set", "server.pin=false"])
            .args([
                "--set",
                "wal.file_bytes=16MiB",
                "--set",
                "wal.batch_bytes_max=4MiB",
            ])
            .args([
                "--set",
                "disk.reserve_bytes=36MiB",
                "--set",
                "disk.low_bytes=16MiB",
            ])
            .arg("--data-dir")
            .arg(directory.path())
            .args(arguments)
            .env("MILLRACE_SERVER_LOG", level)
            .stderr(log)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command was built");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a line of text");
        let Some(rest) = line.strip_prefix("ready kafka=") else {
            panic!("not ready: {line:?}, {:?}", child.wait());
        };
        let address = rest
            .split_whitespace()
            .next()
            .expect("an address")
            .to_owned();
        Self { child, address }
    }

    /// SIGKILL: what it had not made durable is lost.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }

    /// Resident memory, bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/statm", self.child.id());
        let text = fs::read_to_string(path).expect("it runs");
        let pages = text.split(' ').nth(1).expect("the second field");
        pages.parse::<usize>().expect("a number") * 4096
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Waits for its end and returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("it ended").code()
    }

    /// SIGTERM: a clean stop.
    pub(crate) fn stop(mut self) {
        self.terminate();
        let status = self.child.wait().expect("it ended");
        assert_eq!(status.code(), Some(0), "a clean stop");
    }

    /// A producer with the settings given, and short waits.
    pub(crate) fn producer(&self, settings: &[(&str, &str)]) -> TestProducer {
        producer_of(&self.address, settings)
    }

    /// A consumer that reads what it is told to, and belongs to no group.
    pub(crate) fn consumer(&self, settings: &[(&str, &str)]) -> BaseConsumer {
        let mut config = config_of(&self.address);
        // librdkafka wants a name before it lets itself be assigned partitions.
        config
            .set("group.id", "unused")
            .set("enable.auto.commit", "false");
        config
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().expect("sound settings")
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        config_of(&self.address).create().expect("sound settings")
    }

    /// Every record of a partition, from its first one to its present end.
    pub(crate) fn read_all(&self, topic: &str, partition: i32) -> Vec<Record> {
        let consumer = self.consumer(&[]);
        assign(&consumer, topic, partition, Offset::Beginning);
        read_to_end(&consumer)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings of a client of the broker at this address, whoever started it.
pub(crate) fn config_of(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

/// As [`Broker::producer`].
pub(crate) fn producer_of(address: &str, settings: &[(&str, &str)]) -> TestProducer {
    let mut config = config_of(address);
    config
        .set("message.timeout.ms", "30000")
        .set("linger.ms", "5");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let producer = config
        .create_with_context(Deliveries)
        .expect("sound settings");
    TestProducer(producer)
}

/// A ticket that nobody waits for.
pub(crate) fn unwatched() -> Box<Ticket> {
    let (done, _) = mpsc::channel();
    Box::new(Ticket { number: 0, done })
}

/// What became of one message: where it is, or why it is not.
pub(crate) type Delivery = Result<(i32, i64), KafkaError>;

/// Goes down with a message and says who waits for its delivery.
pub(crate) struct Ticket {
    pub(crate) number: u64,
    pub(crate) done: mpsc::Sender<(u64, Delivery)>,
}

/// Hands each delivery to whoever holds the ticket's other end.
pub(crate) struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let delivery = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits for it when a test is over.
        let _ = opaque.done.send((opaque.number, delivery));
    }
}

/// A producer whose messages can be waited for.
pub(crate) struct TestProducer(pub(crate) BaseProducer<Deliveries>);

impl TestProducer {
    /// Queues one record; the queue is larger than any test.
    pub(crate) fn send<K, V>(&self, record: BaseRecord<'_, K, V, Box<Ticket>>)
    where
        K: ToBytes + ?Sized,
        V: ToBytes + ?Sized,
    {
        let sent = self.0.send(record);
        sent.map_err(|(error, _)| error).expect("room in the queue");
    }

    /// Sends all and waits: where each one went.
    pub(crate) fn send_all(&self, topic: &str, partition: i32, values: &[String]) -> Vec<i64> {
        let (done, deliveries) = mpsc::channel();
        for (number, value) in (0..).zip(values) {
            let ticket = Box::new(Ticket {
                number,
                done: done.clone(),
            });
            let record = BaseRecord::<(), String, _>::with_opaque_to(topic, ticket);
            self.send(record.partition(partition).payload(value));
        }
        drop(done);
        self.0.flush(PATIENCE).expect("all delivered in time");
        let mut offsets = vec![-1; values.len()];
        for (number, delivery) in deliveries {
            offsets[number as usize] = delivery.expect("delivered").1;
        }
        offsets
    }
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    /// Stamped by the broker, not by its producer.
    pub(crate) is_append_time: bool,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: String,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn new(message: &BorrowedMessage<'_>) -> Self {
        use rdkafka::message::Headers;
        let headers = message.headers().into_iter().flat_map(|headers| {
            let owned = |h: rdkafka::message::Header<'_, &[u8]>| {
                (h.key.to_owned(), h.value.map(<[u8]>::to_vec))
            };
            headers.iter().map(owned).collect::<Vec<_>>()
        });
        Self {
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            is_append_time: matches!(message.timestamp(), Timestamp::LogAppendTime(_)),
            key: message.key().map(<[u8]>::to_vec),
            value: String::from_utf8(message.payload().unwrap_or_default().to_vec()).expect("text"),
            headers: headers.collect(),
        }
    }
}

/// Puts a consumer on one partition.
pub(crate) fn assign(consumer: &BaseConsumer, topic: &str, partition: i32, offset: Offset) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, offset)
        .expect("a valid offset");
    consumer.assign(&list).expect("assignable");
}

/// Everything up to the partition's present end.
pub(crate) fn read_to_end(consumer: &BaseConsumer) -> Vec<Record> {
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(
            Instant::now() < deadline,
            "the end was not reached: {} read",
            records.len()
        );
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => records.push(Record::new(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => return records,
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => panic!("reading failed: {error}"),
        }
    }
}

/// Reads `count` records.
pub(crate) fn read(consumer: &BaseConsumer, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while records.len() < count {
        assert!(
            Instant::now() < deadline,
            "only {} of {count} records",
            records.len()
        );
        match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Ok(message)) => records.push(Record::new(&message)),
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => panic!("reading failed: {error}"),
        }
    }
    records
}

/// What librdkafka reports while it connects, or looks for the group that we do not use.
fn is_passing(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
        )
    )
}

/// Values `from..to`, each told apart by its number.
pub(crate) fn values(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("value {n}")).collect()
}

/// Offsets `from..to` as clients count them.
pub(crate) fn offsets(from: i64, to: i64) -> Vec<i64> {
    (from..to).collect()
}
