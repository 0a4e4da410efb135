//! Questions to recovery: crash a store anywhere, and see what the next one makes of it.

mod damage;
mod seeded;

use crate::config::{CommitBackend, SeededBug, StoreConfig};
use crate::error::AppendError;
use crate::record::Batch;
use crate::request::{Append, ReadOutcome, ReadRequest, ReadTicket, Replayed};
use crate::store::Store;
use crate::store::tests::{LOG, SHARD, batch, now, small};
use crate::testing::{Dice, SimDisk, Stream, Survival};
use crate::units::{LeaderEpoch, Lsn, Offset};
use crate::{LogConfig, Records};

const BACKENDS: [CommitBackend; 2] = [CommitBackend::Dsync, CommitBackend::LinkedFdatasync];

/// What must hold, whatever the disk did.
#[derive(Default)]
struct Model {
    /// Which batch each offset holds; rises past `sure` with appends, a crash cuts its end off.
    ids: Vec<u64>,
    /// Offsets below were acknowledged or told to a reader.
    sure: usize,
    /// Never reused, so that no offset can change its batch unseen.
    next_id: u64,
}

/// A machine with one store on it.
struct Machine {
    disk: SimDisk,
    dice: Dice,
    config: StoreConfig,
}

impl Machine {
    fn new(seed: u64, config: StoreConfig) -> Self {
        Self {
            disk: SimDisk::new(seed),
            dice: Dice::new(seed, Stream::Workload),
            config,
        }
    }

    /// Opens the store and holds what it tells against `model`. `None`: the machine stopped.
    fn open(&mut self, model: &mut Model) -> Option<Store> {
        let mut told = Vec::new();
        self.config.seed = self.dice.bits();
        let opened = Store::open(
            self.config.clone(),
            now(0),
            &mut *self.disk.blocking(SHARD),
            &mut |replayed| {
                if let Replayed::Batch { header, .. } = replayed {
                    assert_eq!(header.base_offset, Offset(told.len() as u64), "dense");
                    told.push(header.max_timestamp_ms.cast_unsigned());
                }
            },
        );
        let mut store = match opened {
            Ok(store) => store,
            Err(error) => {
                assert!(self.disk.is_off(), "refused: {error}");
                return None;
            }
        };
        assert!(told.len() >= model.sure, "acknowledged batches are lost");
        // And nothing comes back that an earlier start had given up.
        assert_eq!(told, model.ids[..told.len().min(model.ids.len())]);
        model.sure = told.len();
        model.ids = told;
        store.create_log(LOG, LogConfig::default());
        Some(store)
    }

    /// Appends and completes at random until the machine stops, the log is full or the turns are
    /// over.
    fn work(&mut self, store: &mut Store, model: &mut Model, turns: u64) {
        let mut pending: Vec<(Lsn, usize)> = Vec::new();
        for turn in 0..turns {
            for _ in 0..self.dice.below(4) {
                match self.append(store, model) {
                    Ok(lsn) => pending.push((lsn, model.ids.len())),
                    Err(AppendError::Poisoned) => return,
                    Err(error) => assert_eq!(error, AppendError::WalFull),
                }
            }
            store.handle_timeout(now(turn * 3));
            store.close_group(now(turn * 3));
            while let Some(op) = store.poll_disk() {
                self.disk.submit(SHARD, op);
            }
            for _ in 0..self.dice.below(4) {
                let Some((_, done)) = self.disk.complete_one() else {
                    break;
                };
                store.handle_disk(now(turn * 3), done);
            }
            let durable = store.durable_lsn();
            for (_, count) in pending.iter().filter(|(lsn, _)| *lsn <= durable) {
                model.sure = model.sure.max(*count);
            }
            pending.retain(|(lsn, _)| *lsn > durable);
            if self.disk.is_off() {
                return;
            }
        }
    }

    /// Carries everything to its end.
    fn carry(&mut self, store: &mut Store) {
        loop {
            while let Some(op) = store.poll_disk() {
                self.disk.submit(SHARD, op);
            }
            let Some((_, done)) = self.disk.complete_one() else {
                return;
            };
            store.handle_disk(now(0), done);
        }
    }

    fn append(&mut self, store: &mut Store, model: &mut Model) -> Result<Lsn, AppendError> {
        let bytes = match self.dice.below(10) {
            0 => 20_000,
            1 | 2 => 5_000,
            _ => 200,
        };
        self.append_of(store, model, bytes)
    }

    fn append_of(
        &mut self,
        store: &mut Store,
        model: &mut Model,
        bytes: usize,
    ) -> Result<Lsn, AppendError> {
        let bytes = batch(model.next_id, bytes);
        let lsn = store.append(
            now(0),
            Append {
                partition: LOG,
                base_offset: Offset(model.ids.len() as u64),
                leader_epoch: LeaderEpoch(0),
                append_time_ms: None,
                batch: Batch::check(&bytes).expect("good"),
            },
        )?;
        model.ids.push(model.next_id);
        model.next_id += 1;
        Ok(lsn)
    }

    /// Reads the whole log back and holds it against `model`.
    fn read_all(&mut self, store: &mut Store, model: &Model) {
        let end = Offset(model.sure as u64);
        let mut ids = Vec::new();
        while ids.len() < model.sure {
            let records = self.read(store, Offset(ids.len() as u64), end);
            assert!(!records.batches.is_empty());
            for batch in &records.batches {
                let header = Batch::check_stored(batch)
                    .expect("whole")
                    .header()
                    .to_owned();
                assert_eq!(header.base_offset, Offset(ids.len() as u64));
                ids.push(header.max_timestamp_ms.cast_unsigned());
            }
        }
        assert_eq!(ids, model.ids[..model.sure]);
    }

    fn read(&mut self, store: &mut Store, from: Offset, end: Offset) -> Records {
        let request = ReadRequest {
            ticket: ReadTicket(1),
            partition: LOG,
            from,
            end,
            bytes_max: 10_000,
        };
        if let ReadOutcome::Ready(records) = store.read(now(0), request) {
            return records.expect("readable");
        }
        loop {
            while let Some(op) = store.poll_disk() {
                self.disk.submit(SHARD, op);
            }
            let (_, done) = self.disk.complete_one().expect("the read is in flight");
            store.handle_disk(now(0), done);
            if let Some((_, records)) = store.poll_read() {
                return records.expect("readable");
            }
        }
    }
}

fn survival(dice: &mut Dice) -> Survival {
    match dice.below(5) {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        2 => Survival::Prefix,
        3 => Survival::Random,
        _ => Survival::InFlight(dice.bits()),
    }
}

/// Several lives, each ended by a power cut or a kill at a random operation.
fn lives(seed: u64, config: StoreConfig) {
    let mut machine = Machine::new(seed, config);
    let mut model = Model::default();
    for life in 0..5 {
        let stop = machine.disk.ops_started() + machine.dice.below(120);
        machine.disk.power_off_at(stop);
        if let Some(mut store) = machine.open(&mut model) {
            machine.work(&mut store, &mut model, 60);
        }
        let next_seed = seed * 10 + life;
        machine.disk = if machine.dice.one_in(3) {
            machine.disk.after_kill(next_seed)
        } else {
            let survival = survival(&mut machine.dice);
            machine.disk.after_power_cut(survival, next_seed)
        };
    }
    let mut store = machine.open(&mut model).expect("nothing stops it now");
    machine.read_all(&mut store, &model);
}

#[test]
fn what_was_acknowledged_or_told_survives_many_lives() {
    for (seed, backend) in (1..=100).flat_map(|seed| BACKENDS.map(|backend| (seed, backend))) {
        lives(seed, StoreConfig { backend, ..small() });
    }
}

/// One life that has three groups in flight when the power goes; of these, those in `mask` made
/// it to the disk.
fn life_with_three_in_flight(machine: &mut Machine, model: &mut Model, mask: u64) {
    let mut store = machine.open(model).expect("nothing stops it");
    machine.carry(&mut store);
    let before = store.durable_lsn();
    for _ in 0..3 {
        machine
            .append_of(&mut store, model, 300)
            .expect("there is room");
        store.close_group(now(0));
    }
    while let Some(op) = store.poll_disk() {
        machine.disk.submit(SHARD, op);
    }
    assert_eq!(machine.disk.in_flight(), 3);
    assert_eq!(store.durable_lsn(), before);
    machine.disk = machine
        .disk
        .after_power_cut(Survival::InFlight(mask), mask + 1);
}

#[test]
fn three_lives_with_every_subset_of_the_groups_in_flight_never_refuse_and_never_lose() {
    for (backend, masks) in BACKENDS
        .into_iter()
        .flat_map(|backend| (0..512_u64).map(move |masks| (backend, masks)))
    {
        let mut machine = Machine::new(masks, StoreConfig { backend, ..small() });
        let mut model = Model::default();
        for life in 0..3 {
            let mask = (masks >> (3 * life)) & 7;
            let sure = model.sure;
            life_with_three_in_flight(&mut machine, &mut model, mask);
            assert!(model.sure >= sure);
            // What survives is the longest prefix: a hole ends it.
            let prefix = mask.trailing_ones() as usize;
            let mut store = machine.open(&mut model).expect("nothing stops it");
            assert_eq!(model.sure, sure + prefix, "life {life} of {masks:o}");
            machine.read_all(&mut store, &model);
            machine.carry(&mut store);
        }
    }
}

#[test]
fn two_starts_in_a_row_may_end_at_any_operation() {
    let mut machine = Machine::new(7, small());
    let mut model = Model::default();
    // Slots of the usual size come to be. The log is small: each start copies it whole.
    for _ in 0..2 {
        let mut store = machine.open(&mut model).expect("opens");
        machine
            .append_of(&mut store, &mut model, 300)
            .expect("there is room");
        store.close_group(now(0));
        machine.carry(&mut store);
        model.sure = model.ids.len();
    }
    let before = machine.disk.after_kill(1);
    let mut whole = before.after_kill(1);
    let (config, quiet) = (machine.config.clone(), &mut |_: Replayed<'_>| {});
    let opened = Store::open(config, now(0), &mut *whole.blocking(SHARD), quiet);
    drop(opened.expect("nothing stops it"));
    let ops = whole.ops_started() - before.ops_started();
    for (first, second) in (0..ops).flat_map(|first| (0..ops).map(move |second| (first, second))) {
        machine.disk = before.after_kill(1);
        for stop in [first, second] {
            let stop = machine.disk.ops_started() + stop;
            machine.disk.power_off_at(stop);
            assert!(machine.open(&mut model).is_none(), "the machine stops");
            machine.disk = machine.disk.after_kill(1);
        }
        machine.open(&mut model).expect("nothing stops it now");
    }
}

#[test]
fn what_one_start_served_the_next_one_has_whatever_happens_between() {
    for seed in 1..=100 {
        let mut machine = Machine::new(seed, small());
        let mut model = Model::default();
        let mut store = machine.open(&mut model).expect("opens");
        machine.work(&mut store, &mut model, 10);
        // The page cache shows what was never durable; a start after a kill serves from it.
        machine.disk = machine.disk.after_kill(seed);
        machine.open(&mut model).expect("opens");
        machine.disk = machine.disk.after_power_cut(Survival::Nothing, seed);
        machine.open(&mut model).expect("opens");
    }
}

#[test]
fn restarts_without_work_take_no_more_space() {
    let mut machine = Machine::new(1, small());
    let mut model = Model::default();
    let mut store = machine.open(&mut model).expect("opens");
    machine.append(&mut store, &mut model).expect("taken");
    store.close_group(now(0));
    machine.carry(&mut store);
    let mut files = 0;
    for restart in 0..20 {
        let mut store = machine.open(&mut model).expect("opens");
        assert_eq!(model.sure, 1);
        machine.carry(&mut store);
        let now_there = machine.disk.files(SHARD).len();
        assert!(restart < 2 || now_there <= files, "files pile up");
        files = now_there;
    }
}

#[test]
fn batches_larger_than_a_commit_buffer_and_a_full_log_survive() {
    let mut machine = Machine::new(3, small());
    let mut model = Model::default();
    let mut store = machine.open(&mut model).expect("opens");
    let mut refused = 0;
    for _ in 0..100 {
        match machine.append_of(&mut store, &mut model, 30_000) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, AppendError::WalFull);
                refused += 1;
            }
        }
        store.close_group(now(0));
        machine.carry(&mut store);
    }
    assert!(refused > 50, "one file is kept back");
    store
        .append_state(now(0), 1, b"an acknowledgement")
        .expect("state may use the file that is kept back");
    store.close_group(now(0));
    machine.carry(&mut store);
    model.sure = model.ids.len();
    let mut store = machine.open(&mut model).expect("opens");
    assert_eq!(model.sure, 100 - refused);
    machine.read_all(&mut store, &model);
}
