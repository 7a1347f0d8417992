//! `LANGFUSE_TRACING_ENABLED=false`: everything is taken, and nothing is kept or shipped.

use langfuse_extension_core::Settings;
use langfuse_extension_core::ledger::DropReason;

use crate::driver::Sandbox;

#[test]
fn the_kill_switch_takes_everything_and_neither_stores_nor_sends_it() {
    let mut sandbox = Sandbox::new(Settings {
        enabled: false,
        ..Settings::default()
    });
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.shutdown(2_000);
    for action in ["Store", "MarkSent", "Export", "Probe"] {
        assert_eq!(sandbox.count(action), 0, "{action}: {:?}", sandbox.done);
    }
    assert_eq!(sandbox.dropped(DropReason::Disabled), 1);
    assert_eq!(sandbox.core.held_units(), 0);
}
