//! Which shard gets a connection.

/// The shards in the order in which to try them: those with the fewest connections first, equals by their
/// number. An export that has a home is served there and nowhere else.
pub(super) fn preference(connections: &[usize], home: Option<usize>) -> Vec<usize> {
    let mut shards: Vec<usize> = home.map_or_else(|| (0..connections.len()).collect(), |home| vec![home]);
    shards.sort_by_key(|&shard| connections[shard]);
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_is_first() {
        assert_eq!(preference(&[3, 1, 2, 1], None), [1, 3, 2, 0]);
        assert_eq!(preference(&[0, 0, 0], None), [0, 1, 2]);
        assert_eq!(preference(&[], None), [] as [usize; 0]);
    }

    #[test]
    fn a_home_is_the_only_place() {
        assert_eq!(preference(&[3, 1, 2, 1], Some(0)), [0]);
    }

    #[test]
    fn connections_spread_evenly() {
        let mut connections = [0; 4];
        for _ in 0..40 {
            connections[preference(&connections, None)[0]] += 1;
        }
        assert_eq!(connections, [10; 4]);
    }
}
