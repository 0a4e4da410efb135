//! Batches for tests.

use millrace_storage::record::{BATCH_HEADER_BYTES, checksum};

/// A wall clock for tests, milliseconds since the Unix epoch.
pub(crate) const WALL_MS: i64 = 1_800_000_000_000;

/// Makes record batches.
#[derive(Clone, Debug)]
pub(crate) struct BatchMaker {
    records: u32,
    declared: u32,
    attributes: i16,
    timestamps: (i64, i64),
    producer: (i64, i16, i32),
    payload: Vec<u8>,
}

impl BatchMaker {
    /// An uncompressed batch of `records` small records, all stamped [`WALL_MS`].
    pub(crate) fn new(records: u32) -> Self {
        Self {
            records,
            declared: records,
            attributes: 0,
            timestamps: (WALL_MS, WALL_MS),
            producer: (-1, -1, -1),
            payload: plain_records(records, |_| 0),
        }
    }

    /// Codec and flags; the records stay as they are.
    pub(crate) fn attributes(mut self, attributes: i16) -> Self {
        self.attributes = attributes;
        self
    }

    /// Base and largest timestamp, in the header alone.
    pub(crate) fn timestamps(mut self, first: i64, largest: i64) -> Self {
        self.timestamps = (first, largest);
        self
    }

    /// Records that the header declares, whatever is there.
    pub(crate) fn declare_records(mut self, records: u32) -> Self {
        self.declared = records;
        self
    }

    /// Producer id, epoch and first sequence.
    pub(crate) fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Bytes after the header: the records, compressed as the attributes say.
    pub(crate) fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// Records stamped base timestamp plus `deltas`; the header's largest follows.
    pub(crate) fn deltas(mut self, deltas: &[i64]) -> Self {
        self.records = u32::try_from(deltas.len()).expect("a test's batch");
        self.declared = self.records;
        self.payload = plain_records(self.records, |at| deltas[at]);
        let largest = deltas.iter().max().expect("a batch has records");
        self.timestamps = (WALL_MS, WALL_MS + largest);
        self
    }

    /// The records alone.
    pub(crate) fn records_alone(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        batch.extend_from_slice(&self.payload);
        let length = i32::try_from(batch.len() - 12).expect("a test's batch");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        batch[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        batch[23..27].copy_from_slice(&(self.declared - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&self.timestamps.0.to_be_bytes());
        batch[35..43].copy_from_slice(&self.timestamps.1.to_be_bytes());
        batch[43..51].copy_from_slice(&self.producer.0.to_be_bytes());
        batch[51..53].copy_from_slice(&self.producer.1.to_be_bytes());
        batch[53..57].copy_from_slice(&self.producer.2.to_be_bytes());
        batch[57..61].copy_from_slice(&self.declared.to_be_bytes());
        let sum = checksum(&batch[21..]);
        batch[17..21].copy_from_slice(&sum.to_be_bytes());
        batch
    }
}

/// Records without key and headers and with a one-byte value.
fn plain_records(records: u32, timestamp_delta: impl Fn(usize) -> i64) -> Vec<u8> {
    let mut out = Vec::new();
    for at in 0..records {
        let mut record = vec![0];
        zigzag(timestamp_delta(at as usize), &mut record);
        zigzag(i64::from(at), &mut record);
        zigzag(-1, &mut record);
        zigzag(1, &mut record);
        record.extend_from_slice(b"v");
        zigzag(0, &mut record);
        zigzag(record.len() as i64, &mut out);
        out.extend_from_slice(&record);
    }
    out
}

fn zigzag(value: i64, out: &mut Vec<u8>) {
    let mut bits = (value << 1 ^ value >> 63).cast_unsigned();
    while bits >= 0x80 {
        out.push((bits & 0x7f) as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}
