//! The flows of a checkpoint in JSON: a list of numbers for each, and once what many have in common.

use std::{collections::HashMap, fmt, hash::Hash, marker::PhantomData, net::SocketAddr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
    ser::SerializeStruct as _,
};

use super::{
    super::{Name, Retransmits, Role, Volume},
    CheckpointFlow, CheckpointFlows,
};

/// Numbers that make up a flow, at most.
pub(super) const NUMBERS: usize = 7 + Volume::NUMBERS + Retransmits::NUMBERS;

/// Names, and addresses that were asked for, at most of each. Further flows are restored without.
pub(super) const ENDS: usize = 4_096;

/// Bytes of a name at most, as of every name that flowcar learns.
pub(super) const LONGEST: usize = 253;

/// Where a flow's name and the address that was asked for are in their lists, from 1 on; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    name: u64,
    asked: u64,
}

/// What many flows have in common, with the place of each.
struct Common<'a, T> {
    all: Vec<&'a T>,
    places: HashMap<&'a T, u64>,
}

/// A flow as it is written.
struct WrittenFlow<'a>(&'a CheckpointFlow, Places);

/// The numbers of a flow that were read.
struct Numbers([u64; NUMBERS]);

/// A name that was read.
struct ReadName(Name);

/// A list of which no more than [`ENDS`] are read.
struct Few<T>(Vec<T>);

/// All flows as they are read.
#[derive(Deserialize)]
struct ReadFlows {
    lost_closes: u64,
    names: Few<ReadName>,
    asked: Few<SocketAddr>,
    flows: Vec<Numbers>,
}

impl CheckpointFlow {
    fn numbers(&self, places: Places) -> [u64; NUMBERS] {
        let known = [self.cookie, self.fingerprint.into(), self.role as u64];
        let rest = [
            places.name,
            places.asked,
            self.receive_window_limited_us,
            self.send_buffer_limited_us,
        ];
        // Most of the last ones are 0, and not written.
        let (volume, sent_again) = (self.volume.numbers(), self.volume.retransmits.numbers());
        let parts = [&known[..], &volume, &rest, &sent_again];
        let mut numbers = [0; NUMBERS];
        let all = parts.into_iter().flatten();
        numbers
            .iter_mut()
            .zip(all)
            .for_each(|(to, from)| *to = *from);
        numbers
    }

    /// Whether it counts no more of anything.
    pub(super) fn counts_at_most(&self, most: u64) -> bool {
        let numbers = self.numbers(Places::default());
        numbers[3..].iter().all(|number| *number <= most)
    }

    /// `None` of numbers that are no flow's.
    fn read(Numbers(all): Numbers, names: &[ReadName], asked: &[SocketAddr]) -> Option<Self> {
        let narrow = |number| u32::try_from(number).ok();
        let volume = *all[3..].first_chunk()?;
        let sent_again: [u64; Retransmits::NUMBERS] = *all.last_chunk()?;
        // The kernel counts them in 32 bits.
        if sent_again.iter().any(|count| narrow(*count).is_none()) {
            return None;
        }
        let place = |number: u64| usize::try_from(number).ok()?.checked_sub(1);
        let name = match all[7] {
            0 => None,
            number => Some(names.get(place(number)?)?.0.clone()),
        };
        let asked = match all[8] {
            0 => None,
            number => Some(Box::new(*asked.get(place(number)?)?)),
        };
        Some(Self {
            cookie: all[0],
            fingerprint: narrow(all[1])?,
            role: Role::from_u8(u8::try_from(all[2]).ok()?)?,
            volume: Volume::of_numbers(volume, Retransmits::of_numbers(sent_again)),
            name,
            asked,
            receive_window_limited_us: all[9],
            send_buffer_limited_us: all[10],
        })
    }
}

impl<'a, T: Eq + Hash> Common<'a, T> {
    fn of(flows: impl Iterator<Item = &'a T>) -> Self {
        let (mut all, mut places) = (Vec::new(), HashMap::new());
        for one in flows {
            if all.len() < ENDS && !places.contains_key(one) {
                all.push(one);
                places.insert(one, all.len() as u64);
            }
        }
        Self { all, places }
    }

    fn place(&self, one: Option<&T>) -> u64 {
        let place = one.and_then(|one| self.places.get(one));
        place.copied().unwrap_or_default()
    }
}

impl Serialize for CheckpointFlows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.flows.iter().filter_map(|flow| flow.name.as_ref());
        let names = Common::of(named.filter(|name| is_name(name)));
        let asked = Common::of(self.flows.iter().filter_map(|flow| flow.asked.as_deref()));
        let written: Vec<WrittenFlow<'_>> = self
            .flows
            .iter()
            .map(|flow| {
                let places = Places {
                    name: names.place(flow.name.as_ref()),
                    asked: asked.place(flow.asked.as_deref()),
                };
                WrittenFlow(flow, places)
            })
            .collect();
        let texts: Vec<&str> = names.all.iter().map(|name| &***name).collect();
        let mut all = serializer.serialize_struct("CheckpointFlows", 4)?;
        all.serialize_field("lost_closes", &self.lost_closes)?;
        all.serialize_field("names", &texts)?;
        all.serialize_field("asked", &asked.all)?;
        all.serialize_field("flows", &written)?;
        all.end()
    }
}

impl Serialize for WrittenFlow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(flow, places) = self;
        let numbers = flow.numbers(*places);
        let used = numbers.iter().rposition(|number| *number != 0);
        serializer.collect_seq(&numbers[..used.map_or(0, |last| last + 1)])
    }
}

impl<'de> Deserialize<'de> for CheckpointFlows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ReadFlows {
            lost_closes,
            names,
            asked,
            flows,
        } = ReadFlows::deserialize(deserializer)?;
        let flows = flows
            .into_iter()
            .map(|numbers| CheckpointFlow::read(numbers, &names.0, &asked.0));
        let flows: Option<_> = flows.collect();
        Ok(Self {
            lost_closes,
            flows: flows.ok_or_else(|| D::Error::custom("a flow of other numbers"))?,
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {ENDS}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut read = Vec::new();
                while let Some(one) = list.next_element()? {
                    if read.len() == ENDS {
                        return Err(A::Error::custom(
                            "more names or addresses than flowcar writes",
                        ));
                    }
                    read.push(one);
                }
                Ok(Few(read))
            }
        }

        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u64>::deserialize(deserializer)?;
        let mut all = [0; NUMBERS];
        let used = all.get_mut(..numbers.len());
        let used = used.ok_or_else(|| D::Error::custom("a flow of more numbers"))?;
        used.copy_from_slice(&numbers);
        Ok(Self(all))
    }
}

impl<'de> Deserialize<'de> for ReadName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Name::from(String::deserialize(deserializer)?);
        match is_name(&name) {
            true => Ok(Self(name)),
            false => Err(D::Error::custom("a text that is no name")),
        }
    }
}

/// Whether a text is a name that is written: printable ASCII in lower case, without what the bound of a file counts.
fn is_name(text: &str) -> bool {
    let is_byte = |byte: u8| {
        byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !matches!(byte, b'[' | b',')
    };
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_byte)
}
