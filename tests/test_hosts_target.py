"""What `--host` may say: which machine, by which door, and what is told of a word that says neither."""

from __future__ import annotations

import pytest

from portctl.hosts import doors
from portctl.hosts.target import Target, parse
from portctl.problems import Problems


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("local", Target("local")),
        ("ssh://web1", Target("ssh", "web1")),
        ("ssh://admin@web1.example.net:2222", Target("ssh", "web1.example.net", "admin", 2222)),
        ("ssh://[2001:db8::1]", Target("ssh", "2001:db8::1")),
        ("ssh://admin@[2001:db8::1]:22", Target("ssh", "2001:db8::1", "admin", 22)),
        ("ssh://joe@corp.example@web1/", Target("ssh", "web1", "joe@corp.example")),
        ("docker://shop_db-1", Target("docker", "shop_db-1")),
        ("podman://a1b2c3", Target("podman", "a1b2c3")),
        ("vagrant://", Target("vagrant", "")),
        ("vagrant://debian", Target("vagrant", "debian")),
        ("netns://blue", Target("netns", "blue")),
    ],
)
def test_a_target_is_read_and_written_as_people_write_it(text: str, wanted: Target) -> None:
    assert parse(text) == wanted
    assert str(wanted) == text.rstrip("/") or text.endswith("/")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web1", "did you mean `ssh://web1`?"),
        ("admin@web1", "did you mean `ssh://admin@web1`?"),
        ("", "known are ssh://[USER@]HOST[:PORT], docker://NAME"),
        ("telnet://web1", "`telnet` is no way to get to a host"),
        ("local://", "`local` is no way to get to a host"),
        ("ssh://", "`` is no name of a host"),
        ("ssh://-oProxyCommand=reboot", "`-oProxyCommand=reboot` is no name of a host"),
        ("ssh://web1;reboot", "is no name of a host"),
        ("ssh://$(reboot)", "is no name of a host"),
        ("ssh://-lroot@web1", "is no user's name"),
        ("ssh://web1:0", "`0` is no port"),
        ("ssh://web1:", "`` is no port"),
        ("ssh://web1:ssh", "`ssh` is no port"),
        ("ssh://2001:db8::1", "write ssh://[2001:db8::1]"),
        ("ssh://[web1]", "`web1` is no IPv6 address"),
        ("docker://", "`` is no name of a container"),
        ("docker://a/b", "`a/b` is no name of a container"),
        ("netns://-x", "`-x` is no name of a network namespace"),
    ],
)
def test_a_word_that_is_no_target_is_told_what_to_write(text: str, said: str) -> None:
    with pytest.raises(Problems, match="bad-host") as caught:
        parse(text)
    assert said in str(caught.value)


def test_a_password_in_a_target_is_not_repeated() -> None:
    with pytest.raises(Problems) as caught:
        parse("ssh://admin:geheim@web1")
    assert "geheim" not in str(caught.value)
    assert "a password has no place there" in str(caught.value)


def test_nothing_turns_the_check_of_host_keys_off_and_nothing_is_shared() -> None:
    with doors.opened(parse("ssh://admin@web1:2222")) as argv:
        options = [argv[at + 1] for at, word in enumerate(argv) if word == "-o"]
        assert not [option for option in options if "HostKey" in option or "KnownHosts" in option]
        assert {"ControlMaster=no", "ControlPath=none"} <= set(options)
        assert argv[argv.index("--") :] == ("--", "web1", doors.FIRST)
        assert argv[argv.index("-p") + 1] == "2222"
        assert argv[argv.index("-l") + 1] == "admin"
