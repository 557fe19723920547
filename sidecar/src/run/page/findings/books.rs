//! Whether every connection is accounted for.

use super::{Answer, Facts, Weight, reasons};

pub(super) fn complete(facts: &Facts<'_>) -> Answer {
    let sums = facts.sums;
    let lost = sums.lost_total();
    let mut text = format!(
        "{} opened = {} closed + {} live + {lost} lost.",
        sums.opened, sums.closed, sums.live
    );
    if lost > 0 {
        let by = reasons(&sums.lost);
        text += &format!(" The ends of the lost ones are unknown: {by}.");
        return (Weight::Alarm, text, None);
    }
    match sums.unscoped {
        Some(unscoped) if unscoped > 0 => {
            text += &format!(
                " {unscoped} more sockets of this network namespace opened and closed between two polls: some may be the command's."
            );
            (Weight::Note, text, None)
        }
        _ => (Weight::Fine, text, None),
    }
}
