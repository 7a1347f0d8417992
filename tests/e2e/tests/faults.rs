//! The fault matrix in its short form; `make faults` runs all of it.

use e2e::matrix;

#[test]
fn the_short_matrix_keeps_every_promise() {
    let cells = matrix::run(&matrix::short(), 2, |_| {});
    let table = matrix::table(&cells, &[]);
    assert!(cells.iter().all(|cell| cell.broken.is_empty()), "\n{table}");
}
