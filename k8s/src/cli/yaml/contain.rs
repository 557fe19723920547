//! The parser panics at some tags that kubectl refuses (`!a,`, `!%ff`). Here a panic becomes `None`, and prints nothing.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `work` makes, `None` where it panics. What it worked on is not to be used after that.
pub(super) fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                loud(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let made = catch_unwind(AssertUnwindSafe(work)).ok();
    IS_QUIET.set(false);
    made
}
