//! Why names are missing.

use super::{Value, value};
use crate::peer::{NoName, Unused};

pub(super) fn unused(reason: Unused) -> Value {
    let name = reason.name();
    match reason {
        Unused::Malformed => value(
            name,
            "It is no DNS message, or a part of one is missing.",
            "",
        ),
        Unused::Unasked => value(
            name,
            "An answer to a query that this pod did not send, that was answered before, or that was sent more than 30 seconds before.",
            "Many: somebody sends forged answers to the pod, or its queries leave by another address than answers come from (docs/limits.md).",
        ),
        Unused::Truncated => value(
            name,
            "The answer did not fit into its packet, or into the copy (4096 bytes), or has more labels than are read. Addresses that were read are used.",
            "",
        ),
    }
}

pub(super) fn unnamed(reason: NoName) -> Value {
    let name = reason.name();
    match reason {
        NoName::NeverAsked => value(
            name,
            "No answer named the address: the application has it from a setting, asked by DNS over TLS or HTTPS, or asked before flowcar followed.",
            "",
        ),
        NoName::Expired => value(
            name,
            "The name was no longer valid when the connection was opened: the application keeps addresses longer than the answer allows.",
            "Java: lower networkaddress.cache.ttl.",
        ),
        NoName::SeveralNames => value(
            name,
            "Two names or more stand for the address, as behind a shared load balancer.",
            "",
        ),
        NoName::Forgotten => value(
            name,
            "A name of the address, or of one that shares its place in a table, made room: the pod asked for more pairs of a name and an address than flowcar keeps (8192, and 8 of one address).",
            "The pod asks for very many names: set FLOWCAR_PEER=address or prefix.",
        ),
    }
}
