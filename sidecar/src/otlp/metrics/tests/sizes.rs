//! The size of a report.

use super::*;

/// Bytes of a report, without its start: a busy server's does not grow with its clients, and a client's takes less than
/// two thirds of its size when each point had the constant attributes and histograms their extremes (2.47 MB for 1,000 peers).
#[test]
fn reports_are_small() {
    const BEFORE: usize = 2_470;
    let typical = Series {
        opened: 40,
        closed: BTreeMap::from([(CloseReason::LocalFin.into(), 39)]),
        live: 1,
        volume: Volume {
            bytes_sent: 12_345,
            bytes_received: 1_234_567,
            segments_sent: 400,
            segments_received: 900,
            ..Volume::default()
        },
        connect: BTreeMap::from([(None, recorded(&[150_000, 200_000, 180_000, 900_000]))]),
        rtt: BTreeMap::from([(
            RttKind::Measured,
            recorded(&[120_000, 150_000, 180_000, 400_000, 900_000]),
        )]),
        duration: BTreeMap::from([(
            CloseReason::LocalFin.into(),
            recorded(&[5_000_000, 9_000_000, 80_000_000]),
        )]),
        ..Series::default()
    };
    let bytes = |role: Role, peers: u32| {
        let naming = Config::from_vars([]).expect("defaults").naming;
        let keys = (0..peers).map(|peer| {
            let flow = Flow {
                role,
                peer: (std::net::Ipv4Addr::from_bits(0x0a00_0000 + peer), 8080).into(),
                local: "10.255.0.1:8080".parse().expect("an address"),
                ..flow()
            };
            crate::series::series_key(&naming, &flow)
        });
        let series: BTreeMap<_, _> = keys.map(|key| (key, typical.clone())).collect();
        let snapshot = Snapshot { series, ..full() };
        let resource = Resource::new(&Config::from_vars([]).expect("defaults"), &web());
        let options = Options {
            self_metrics: SelfMetricsLevel::Basic,
            ..PLAIN
        };
        let exemplars = Exemplars::default();
        let request = encode(&snapshot, &resource, options, None, &exemplars, false);
        prost::Message::encoded_len(&request)
    };
    for peers in [10, 1_000, 2_200] {
        let before = BEFORE * peers as usize;
        let client = bytes(Role::Client, peers);
        assert!(3 * client <= 2 * before + 10_000, "{client} of {before}");
        let server = bytes(Role::Server, peers);
        assert!(10 * server <= before + 100_000, "{server} of {before}");
    }
    let idle = bytes(Role::Client, 0);
    assert!(idle < 3_000, "{idle}");
}
