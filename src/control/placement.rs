//! Which shard gets a connection.

/// The shards in the order in which to try them: those with the fewest connections first, equals by their number.
///
/// Any shard can serve any export as yet. An export with mutable metadata will have one home shard, and this is the place to say so.
pub(super) fn preference(connections: &[usize]) -> Vec<usize> {
    let mut shards: Vec<usize> = (0..connections.len()).collect();
    shards.sort_by_key(|&shard| connections[shard]);
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_is_first() {
        assert_eq!(preference(&[3, 1, 2, 1]), [1, 3, 2, 0]);
        assert_eq!(preference(&[0, 0, 0]), [0, 1, 2]);
        assert_eq!(preference(&[]), [] as [usize; 0]);
    }

    #[test]
    fn connections_spread_evenly() {
        let mut connections = [0; 4];
        for _ in 0..40 {
            connections[preference(&connections)[0]] += 1;
        }
        assert_eq!(connections, [10; 4]);
    }
}
