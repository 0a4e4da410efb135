//! What an operation is called while the kernel has it.
//!
//! ```text
//! bits    field
//! 0..32   index: a slot of the table that the kind says
//! 32..56  life: how often that slot was used before, modulo 2^24
//! 56..64  kind
//! ```
//!
//! The kernel returns the number unchanged. A completion whose entry is not there is our own
//! mistake and stops the process: it would mean that memory was freed under the kernel.

/// Which table an operation's entry is in, and which part of it the completion ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A disk operation: an entry of [`super::disk::Disk`].
    Disk = 1,
    /// The sync that is linked behind a disk write; its entry is the write's.
    DiskSync = 2,
    /// A multishot accept: a listener.
    Accept = 3,
    /// A multishot receive of a connection.
    Receive = 4,
    /// A receive into a connection's own memory.
    ReceiveInto = 5,
    /// A send on a connection.
    Send = 6,
    /// A cancellation of what is under way on a connection.
    Cancel = 7,
    /// The wake-up of a sleeping ring.
    Wake = 8,
}

/// The number that pairs a completion with its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The table.
    pub kind: Kind,
    /// The slot in it.
    pub index: u32,
    /// The slot's life, below 2^24.
    pub life: u32,
}

/// Lives are counted modulo this.
pub const LIFE_COUNT: u32 = 1 << 24;

impl Token {
    /// The token as the kernel carries it.
    #[must_use]
    pub fn to_user_data(self) -> u64 {
        debug_assert!(self.life < LIFE_COUNT);
        u64::from(self.kind as u8) << 56 | u64::from(self.life) << 32 | u64::from(self.index)
    }

    /// The token that [`Token::to_user_data`] made; anything else is a bug.
    #[must_use]
    pub fn from_user_data(user_data: u64) -> Self {
        let kind = match user_data >> 56 {
            1 => Kind::Disk,
            2 => Kind::DiskSync,
            3 => Kind::Accept,
            4 => Kind::Receive,
            5 => Kind::ReceiveInto,
            6 => Kind::Send,
            7 => Kind::Cancel,
            8 => Kind::Wake,
            other => panic!("a completion of unknown kind {other}"),
        };
        Self {
            kind,
            index: (user_data & u64::from(u32::MAX)) as u32,
            life: (user_data >> 32) as u32 & (LIFE_COUNT - 1),
        }
    }
}

/// Entries of operations under way. Slots are reused, their lives are not (until 2^24 later).
#[derive(Debug)]
pub struct InFlight<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    life: u32,
    entry: Option<T>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> InFlight<T> {
    /// Keeps `entry` until [`InFlight::remove`]; returns its slot and life.
    pub fn insert(&mut self, entry: T) -> (u32, u32) {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("operations in flight fit 32 bits");
            self.slots.push(Slot {
                life: 0,
                entry: None,
            });
            index
        });
        let slot = &mut self.slots[index as usize];
        assert!(slot.entry.is_none(), "a free slot is empty");
        slot.entry = Some(entry);
        (index, slot.life)
    }

    /// The entry of that slot and life.
    pub fn get_mut(&mut self, index: u32, life: u32) -> &mut T {
        let slot = &mut self.slots[index as usize];
        assert_eq!(slot.life, life, "a completion finds its own operation");
        slot.entry.as_mut().expect("a completion finds its entry")
    }

    /// Ends the entry.
    pub fn remove(&mut self, index: u32, life: u32) -> T {
        let slot = &mut self.slots[index as usize];
        assert_eq!(slot.life, life, "a completion finds its own operation");
        let entry = slot.entry.take().expect("a completion finds its entry");
        slot.life = (slot.life + 1) % LIFE_COUNT;
        self.free.push(index);
        entry
    }

    /// How many are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for kind in [
            Kind::Disk,
            Kind::Accept,
            Kind::Receive,
            Kind::ReceiveInto,
            Kind::Send,
            Kind::Cancel,
            Kind::DiskSync,
            Kind::Wake,
        ] {
            for (index, life) in [(0, 0), (u32::MAX, LIFE_COUNT - 1), (7, 1)] {
                let token = Token { kind, index, life };
                assert_eq!(Token::from_user_data(token.to_user_data()), token);
            }
        }
    }

    #[test]
    fn a_reused_slot_has_another_life() {
        let mut table = InFlight::default();
        let (first, first_life) = table.insert("a");
        assert_eq!(table.remove(first, first_life), "a");
        let (second, second_life) = table.insert("b");
        assert_eq!(first, second);
        assert_ne!(first_life, second_life);
        assert_eq!(*table.get_mut(second, second_life), "b");
        assert_eq!(table.len(), 1);
    }
}
