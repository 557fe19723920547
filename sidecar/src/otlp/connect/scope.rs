//! The scope of an IPv6 address (RFC 4007): the interface that its zone names.

use nix::{errno::Errno, net::if_::if_nametoindex};

use super::ConnectError;

/// The scope id of the interface that `zone` names or, if there is no such name, of the one with this number.
pub(super) fn id(zone: &str) -> Result<u32, ConnectError> {
    let named = if_nametoindex(zone);
    let number = || zone.parse().ok().filter(|number| *number != 0);
    named.or_else(|error| {
        number().ok_or_else(|| match error {
            // No interface has this name, or can have one that is as long.
            Errno::ENODEV | Errno::ENAMETOOLONG => {
                ConnectError::Interface(format!("there is no interface {zone}"))
            }
            error => ConnectError::Interface(format!(
                "the interface {zone} cannot be looked up: {}",
                std::io::Error::from(error)
            )),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_a_name_or_a_number() {
        let lo = if_nametoindex("lo").expect("the loopback interface");
        for (zone, expected) in [
            ("lo", Ok(lo)),
            ("1", Ok(1)),
            ("4294967295", Ok(u32::MAX)),
            ("absent0", Err("there is no interface absent0")),
            ("0", Err("there is no interface 0")),
            ("4294967296", Err("there is no interface 4294967296")),
            ("-1", Err("there is no interface -1")),
            (
                "a-name-longer-than-any",
                Err("there is no interface a-name-longer-than-any"),
            ),
        ] {
            let found = id(zone).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{zone}");
        }
    }
}
