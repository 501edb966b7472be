"""Settings: where a value comes from, and the one sentence that a bad one gets."""

from pathlib import Path

import pytest

from dynafast.config import (
    LABEL_MAX,
    SETTINGS,
    Address,
    ClusterConfig,
    ClusterWish,
    NodeConfig,
    Setting,
    Settings,
    default_name,
    load,
    parse_address,
)
from dynafast.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7411", Address("127.0.0.1", 7411)),
        (" node-1.example.org:65535 ", Address("node-1.example.org", 65535)),
        ("[::1]:1", Address("::1", 1)),
        ("[fe80::1%eth0]:7411", Address("fe80::1%eth0", 7411)),
    ],
)
def test_parse_address_good_text_gives_address_that_prints_alike(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":7411",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "::1:7411",  # could be the address ::1:7411
        "[::1]",
        "[localhost]:7411",
        "[::1:7411",
        "a b:7411",
        "http://a:7411",
        "a:7411/",
        "a:٣",  # a digit to Python, not to us
    ],
)
def test_parse_address_bad_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^join must be HOST:PORT, or \[ADDRESS\]:PORT for IPv6, got "):
        parse_address(text, setting="join")


@pytest.mark.parametrize(("text", "port_min"), [("a:0", 1), ("a:65536", 1), ("a:99999", 0)])
def test_parse_address_port_out_of_range_is_refused_with_the_range(text: str, port_min: int) -> None:
    with pytest.raises(ConfigError, match=rf"port in {port_min}\.\.65535"):
        parse_address(text, port_min=port_min)


def test_load_value_comes_from_flag_then_environment_then_file_then_default(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('data = "from-file"\nname = "file"\nzone = "file"\nweight = 4\njoin = ["a:1", "b:2"]\n')
    environ = {"DYNAFAST_NAME": "env", "DYNAFAST_ZONE": "env", "DYNAFAST_R": ""}  # empty: unset
    settings = load({"name": "flag", "join": (), "w": None}, environ=environ, file=file)
    assert settings.node == NodeConfig(
        data=Path("from-file"), name="flag", zone="env", weight=4, join=(Address("a", 1), Address("b", 2))
    )
    assert settings.cluster == ClusterWish()
    assert tuple(settings.sources) == SETTINGS
    assert settings.sources["name"] == Setting(value="flag", source="flag")
    assert settings.sources["zone"] == Setting(value="env", source="env")
    assert settings.sources["weight"] == Setting(value=4, source="file")
    assert settings.sources["join"] == Setting(value=["a:1", "b:2"], source="file")
    assert settings.sources["listen"] == Setting(value="127.0.0.1:7411", source="default")
    assert settings.sources["r"] == Setting(value=None, source="default")


def test_load_environment_names_the_file_and_lists_addresses_by_comma(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("replicas = 5\n")
    settings = load({}, environ={"DYNAFAST_CONFIG": str(file), "DYNAFAST_DATA": "d", "DYNAFAST_JOIN": "a:1, [::1]:2"})
    assert settings.node.join == (Address("a", 1), Address("::1", 2))
    assert settings.cluster == ClusterWish(replicas=5)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("cache", "-1", "cache must be an integer in 0..1048576, got -1"),
        ("weight", "0", "weight must be an integer in 1..10000, got 0"),
        ("weight", "1.5", "weight must be an integer in 1..10000, got '1.5'"),
        ("partitions", "1000", "partitions must be a power of two in 1..65536, got 1000"),
        ("partitions", "131072", "partitions must be an integer in 1..65536, got 131072"),
        ("replicas", "9", "replicas must be an integer in 1..8, got 9"),
        ("r", "0", "r must be an integer in 1..8, got 0"),
        ("w", "two", "w must be an integer in 1..8, got 'two'"),
        *(
            ("workers", value, f"workers must be auto or an integer in 1..256, got {value!r}")
            for value in ("0", "257", "all", "1.0")
        ),
        ("durability", "fast", "durability must be one of group, interval, got 'fast'"),
        ("listen", "7411", "listen must be HOST:PORT, or [ADDRESS]:PORT for IPv6, got '7411'"),
        ("join", ("a:0",), "join must have a port in 1..65535, got 'a:0'"),
        ("data", "a\0b", "data must be the path of a folder, got 'a\\x00b'"),
        *(
            (
                name,
                value,
                f"{name} must be 1 to 64 letters, digits, dots, dashes or underscores, got {value!r}",
            )
            for name in ("name", "zone", "host")
            for value in ("a b", "x" * (LABEL_MAX + 1), "é", "a\n")
        ),
    ],
)
def test_load_bad_value_names_setting_range_value_and_place(setting: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"data": "d", setting: value}, environ={})
    assert str(caught.value) == f"{sentence} (from --{setting})"


def test_load_bad_value_in_environment_or_file_names_that_place(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('data = "d"\nweight = true\n')  # true is an integer to Python
    with pytest.raises(ConfigError, match=r"got True \(from .*node\.toml\)$"):
        load({}, environ={}, file=file)
    with pytest.raises(ConfigError, match=r"got 'x' \(from DYNAFAST_WEIGHT\)$"):
        load({}, environ={"DYNAFAST_WEIGHT": "x"}, file=file)


def test_load_unknown_key_in_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('data = "d"\nreplica = 3\n')
    with pytest.raises(ConfigError, match="unknown key 'replica', known are data, listen"):
        load({}, environ={}, file=file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read"), (b"weight =", "is not TOML"), (b"\xff", "is not TOML")],
)
def test_load_bad_file_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        load({}, environ={}, file=file)


def test_load_without_data_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match="--data DIR, DYNAFAST_DATA, or data in the config file"):
        load({}, environ={})


def test_node_config_wildcard_needs_an_address_others_can_connect_to() -> None:
    with pytest.raises(ConfigError, match="advertise must be given"):
        NodeConfig(data=Path("d"), listen=Address("0.0.0.0", 7411))
    with pytest.raises(ConfigError, match="advertise must be an address others can connect to"):
        NodeConfig(data=Path("d"), advertise=Address("::", 7411))


@pytest.mark.parametrize(
    ("listen", "advertise", "told"),
    [
        (Address("127.0.0.1", 0), None, Address("127.0.0.1", 4000)),
        (Address("::", 7411), Address("::1", 80), Address("::1", 80)),
        (Address("::", 0), Address("node", 0), Address("node", 4000)),  # port 0: the one listened on
    ],
)
def test_advertised_fills_in_the_port_listened_on(listen: Address, advertise: Address | None, told: Address) -> None:
    node = NodeConfig(data=Path("d"), listen=listen, advertise=advertise)
    assert node.advertised(4000) == told


@pytest.mark.parametrize(("replicas", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (8, 5)])
def test_cluster_config_unset_quorums_are_majorities(replicas: int, majority: int) -> None:
    config = ClusterConfig(replicas=replicas)
    assert (config.read_quorum, config.write_quorum) == (majority, majority)


def test_cluster_config_quorum_above_replicas_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^w must be in 1\.\.3 \(replicas\), got 4$"):
        ClusterWish(w=4).create()
    with pytest.raises(ConfigError, match=r"^r must be in 1\.\.2 \(replicas\), got 3$"):
        ClusterConfig(replicas=2, r=3)


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        (ClusterWish(), None),
        (ClusterWish(partitions=1024, replicas=3, r=2, w=2), None),  # the majority, spelt out
        (ClusterWish(partitions=512), "partitions is fixed at 1024"),
        (ClusterWish(replicas=4), "replicas is fixed at 3"),
        (ClusterWish(r=1), "r is fixed at 2"),
        (ClusterWish(w=3), "w is fixed at 2"),
    ],
)
def test_wish_difference_names_the_first_setting_that_the_cluster_does_not_meet(
    wish: ClusterWish, named: str | None
) -> None:
    difference = wish.difference(ClusterConfig())
    assert (difference is None) if named is None else (difference or "").startswith(named)


def test_effective_fills_in_what_was_left_open() -> None:
    settings = load({"data": "d", "replicas": "3"}, environ={})
    shown = settings.effective(ClusterConfig(), name="n1", host="n1", advertise=Address("::1", 9))
    assert shown["replicas"] == Setting(value=3, source="flag")
    assert shown["w"] == Setting(value=2, source="cluster")
    assert shown["name"] == Setting(value="n1", source="default")
    assert shown["advertise"] == Setting(value="[::1]:9", source="default")
    assert tuple(shown) == SETTINGS


@pytest.mark.parametrize("hostname", ["web-1.example.org", "", "x" * 200, "Ünï cödé", "..."])
def test_default_name_of_any_machine_is_a_good_name(hostname: str) -> None:
    name = default_name(hostname, 65535)
    assert name.endswith("-65535")
    NodeConfig(data=Path("d"), name=name)


def test_replace_is_for_one_node() -> None:
    with pytest.raises(ConfigError, match="replace is for one node, so it cannot be given with workers, got 'n1'"):
        load({"data": "d", "workers": "2", "replace": "n1"}, environ={})


@pytest.mark.parametrize(("given", "workers"), [(None, None), ("auto", "auto"), ("8", 8)])
def test_workers_is_a_setting_like_any_other(tmp_path: Path, given: str | None, workers: object) -> None:
    file = tmp_path / "node.toml"
    file.write_text('data = "d"\n' + (f"workers = {given!r}\n" if given else ""))
    for settings in (load({"data": "d", "workers": given}, environ={}), load({}, environ={}, file=file)):
        assert settings.node.workers == workers
    assert load({"data": "d"}, environ={"DYNAFAST_WORKERS": given or ""}).sources["workers"].value == workers


def test_settings_come_out_of_json_as_they_went_in() -> None:
    flags = {"data": "d", "join": ("a:1", "[::1]:2"), "resp": "[::1]:0", "w": "3", "workers": "auto"}
    settings = load(flags, environ={"DYNAFAST_ZONE": "z"})
    assert Settings.from_json(settings.to_json()) == settings


def test_each_worker_has_a_folder_a_name_and_ports_of_its_own() -> None:
    flags = {"data": "d", "listen": "0.0.0.0:7000", "advertise": "n:80", "resp": "n:6379", "join": ("a:1",)}
    told = load({**flags, "workers": "4"}, environ={}).for_worker(3, name="n", host="h", seeds=(Address("b", 2),))
    assert told.node == NodeConfig(
        data=Path("d/3"),
        name="n-3",
        host="h",
        listen=Address("0.0.0.0", 7003),
        advertise=Address("n", 83),
        resp=Address("n", 6382),
        join=(Address("b", 2), Address("a", 1)),
        workers=4,
    )
    assert told.sources["listen"] == Setting(value="0.0.0.0:7003", source="flag")
    assert told.sources["host"] == Setting(value="h", source="default")


def test_worker_with_port_0_takes_the_one_that_it_had() -> None:
    settings = load({"data": "d", "listen": "a:0", "resp": "a:0", "advertise": "b:0"}, environ={})
    node = settings.for_worker(1, name="n", host="n", listen_port=5, resp_port=6).node
    assert (node.listen, node.resp, node.advertise) == (Address("a", 5), Address("a", 6), Address("b", 0))
