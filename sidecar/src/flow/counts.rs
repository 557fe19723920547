//! Counts of a flow that only grow. Each is in one list, and all that is done with every one of them is made from that list.

/// A count, or several.
pub(super) trait Count: Copy {
    /// The greater one: of counts that only grow, the newer.
    fn greater(self, other: Self) -> Self;

    /// What came since `earlier`.
    fn since(self, earlier: Self) -> Self;

    /// Adds more of them.
    fn add(&mut self, more: Self);
}

impl Count for u64 {
    fn greater(self, other: Self) -> Self {
        self.max(other)
    }

    fn since(self, earlier: Self) -> Self {
        self.saturating_sub(earlier)
    }

    fn add(&mut self, more: Self) {
        *self += more;
    }
}

/// Defines a struct of counts, with `max`, `since` and `add` over all of them. The numbers among them can be had in the list's order: those
/// before the `;`.
macro_rules! counts {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$of_number:meta])* $number:ident),+ $(; $(#[$of_part:meta])* $part:ident: $part_type:ty)? }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$of_number])* pub $number: u64,)+
            $($(#[$of_part])* pub $part: $part_type,)?
        }

        impl $name {
            /// How many numbers there are.
            pub const NUMBERS: usize = [$(stringify!($number)),+].len();

            /// The numbers in the order of the list.
            pub const fn numbers(&self) -> [u64; Self::NUMBERS] {
                [$(self.$number),+]
            }

            /// From the numbers in that order.
            pub const fn of_numbers([$($number),+]: [u64; Self::NUMBERS] $(, $part: $part_type)?) -> Self {
                Self { $($number,)+ $($part)? }
            }

            /// The greater of both in each: of counts that only grow, the newer.
            #[must_use]
            pub fn max(&self, other: &Self) -> Self {
                Self {
                    $($number: Count::greater(self.$number, other.$number),)+
                    $($part: Count::greater(self.$part, other.$part))?
                }
            }

            /// What came since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self {
                    $($number: Count::since(self.$number, earlier.$number),)+
                    $($part: Count::since(self.$part, earlier.$part))?
                }
            }

            /// Adds more of each.
            pub fn add(&mut self, more: &Self) {
                $(Count::add(&mut self.$number, more.$number);)+
                $(Count::add(&mut self.$part, more.$part);)?
            }
        }

        impl Count for $name {
            fn greater(self, other: Self) -> Self {
                self.max(&other)
            }

            fn since(self, earlier: Self) -> Self {
                Self::since(&self, &earlier)
            }

            fn add(&mut self, more: Self) {
                Self::add(self, &more);
            }
        }
    };
}

counts! {
    /// Segments sent again, by cause (`flowcar.tcp.retransmit.type`). The checkpoint has them in this order: those that are seldom zero come
    /// first.
    Retransmits {
        /// Cause not seen.
        unknown,
        /// By a tail loss probe.
        tail_loss_probe,
        /// By fast recovery.
        fast,
        /// After the retransmission timer expired.
        timeout,
        /// SYN: the client's.
        syn,
        /// SYN-ACK: the server's.
        synack
    }
}

counts! {
    /// Counts of a flow since it began. Payload bytes: neither SYN nor FIN is among them.
    Volume {
        /// Payload bytes that the peer acknowledged.
        bytes_sent,
        /// Payload bytes received in order.
        bytes_received,
        /// Segments sent, pure ACKs and retransmissions included.
        segments_sent,
        /// Segments received.
        segments_received;
        /// Segments sent again.
        retransmits: Retransmits
    }
}

impl Retransmits {
    /// Segments sent again for any cause.
    pub fn total(&self) -> u64 {
        self.numbers().iter().sum()
    }

    /// SYNs and SYN-ACKs sent again.
    pub const fn of_handshakes(&self) -> u64 {
        self.syn + self.synack
    }

    /// Other segments sent again.
    pub fn of_data(&self) -> u64 {
        self.total() - self.of_handshakes()
    }
}

impl Volume {
    /// Whether no payload was sent or received, not even again.
    pub fn is_silent(&self) -> bool {
        self.bytes_sent == 0 && self.bytes_received == 0 && self.retransmits.total() == 0
    }
}
