"""The client's settings: sources in their order, wrong values, unknown keys."""

from __future__ import annotations

import math
import os
import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.authentication import Token
from natproxy.client.config import (
    SETTINGS,
    ClientConfig,
    config_path,
    load_client_config,
    show_client_config,
)
from natproxy.client.errors import UsageError
from natproxy.settings import Source


class ConfigCase(SynchronousTestCase):
    """Has a home directory of its own."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        self.environment = {"XDG_CONFIG_HOME": self.home}
        os.makedirs(os.path.join(self.home, "natproxy"))
        self.path = os.path.join(self.home, "natproxy", "config.toml")

    def write(self, text: str) -> None:
        with open(self.path, "w") as file:
            file.write(text)
        # A file with a token must be for its owner alone.
        os.chmod(self.path, 0o600)

    def load(self, **options: object) -> ClientConfig:
        return load_client_config(options, self.environment)

    def error(self) -> str:
        message = str(self.assertRaises(UsageError, self.load))
        self.assertEqual(message.splitlines(), [message])
        return message


class SourceTests(ConfigCase):
    def test_without_a_file_every_value_is_the_default(self) -> None:
        config = self.load()
        self.assertEqual(config[:6], ("127.0.0.1:9000", 60.0, None, None, None, False))
        self.assertEqual(config[6:11], (False, None, None, None, False))
        self.assertEqual(config[11:14], (None, None, False))
        self.assertEqual(set(config.sources.values()), {Source("default")})

    def test_every_key_of_the_file_is_read(self) -> None:
        self.write(
            'server = "files.example:9000"\ntimeout = 5\nconnect-timeout = 2.5\n'
            'retry-for = "30m"\nretries = 3\nwait = true\n'
            'tls = true\nca = "/ca.pem"\ncert = "/c.pem"\nkey = "/k.pem"\ninsecure = true\n'
            'token-file = "/t"\ntoken-plain = true\n'
        )
        config = self.load()
        self.assertEqual(config[:6], ("files.example:9000", 5.0, 2.5, 1800.0, 3, True))
        self.assertEqual(config[6:11], (True, "/ca.pem", "/c.pem", "/k.pem", True))
        self.assertEqual(config[11:14], (None, "/t", True))
        for setting in SETTINGS:
            source = config.sources[setting.field]
            if setting.key != "token":
                self.assertEqual(source, Source("file", f"{self.path}: {setting.key}"))

    def test_order_of_the_sources_of_every_setting(self) -> None:
        values: dict[str, tuple[str, str, object]] = {"server": ('"h:1"', "h:2", "h:3")}
        flags = ("wait", "tls", "insecure", "token-plain")
        values |= dict.fromkeys(flags, ("true", "no", True))
        values |= dict.fromkeys(("ca", "cert", "key", "token-file"), ('"/a"', "/b", "/c"))
        values["token"] = '"a"', "b", Token("c")
        for setting in SETTINGS:
            in_file, in_variable, in_option = values.get(setting.key, ("1", "2", 3))
            self.write(f"{setting.key} = {in_file}\n")
            environment = dict(self.environment)
            options: dict[str, object] = {}
            for kind in ("file", "environment", "option"):
                if kind == "environment":
                    environment[setting.variable] = str(in_variable)
                elif kind == "option":
                    options[setting.field] = in_option
                config = load_client_config(options, environment)
                self.assertEqual(config.sources[setting.field].kind, kind, setting.key)
            self.assertEqual(getattr(config, setting.field), in_option)

    def test_token_and_its_file_are_of_one_source(self) -> None:
        self.write('token = "a"\n')
        self.environment["NATPROXY_TOKEN_FILE"] = "/t"
        config = self.load()
        self.assertEqual((config.token, config.token_file), (None, "/t"))
        self.environment["NATPROXY_TOKEN"] = "b"
        config = self.load()
        self.assertEqual((config.token, config.token_file), (Token("b"), None))
        config = self.load(token_file="/u")
        self.assertEqual((config.token, config.token_file), (None, "/u"))

    def test_file_with_a_token_must_be_for_its_owner_alone(self) -> None:
        self.write('token = "s3cret"\n')
        for mode in (0o644, 0o640, 0o604):
            os.chmod(self.path, mode)
            self.assertEqual(
                self.error(),
                f"{self.path}: token: other users can read the file (mode {mode:04o}):"
                " chmod go-rwx",
            )
        self.environment["NATPROXY_TOKEN"] = "b"
        self.assertEqual(self.load().token, Token("b"))

    def test_token_is_in_no_output_and_no_message(self) -> None:
        self.write('token = "s3cret"\n')
        self.assertNotIn("s3cret", repr(self.load()))
        shown = show_client_config(self.environment)
        self.assertIn('token       = "[redacted]"', shown.replace("token =", "token       ="))
        self.assertNotIn("s3cret", shown)
        for wrong in ('"s3cret x"', '["s3cret"]', "{s3cret = 1}", '"s3cret\\u00fc"'):
            self.write(f"token = {wrong}\n")
            self.assertIn("token [redacted]: must be one word", self.error())
            self.assertNotIn("s3cret", self.error())
        self.environment["NATPROXY_TOKEN"] = "s3cret x"
        self.write("")
        self.assertEqual(
            self.error(),
            "$NATPROXY_TOKEN [redacted]: must be one word of at most 256 printable ASCII"
            " characters",
        )

    def test_environment_overrides_the_file_and_an_option_both(self) -> None:
        self.write("timeout = 5\nretries = 3\n")
        self.environment["NATPROXY_TIMEOUT"] = "7"
        config = self.load()
        self.assertEqual((config.timeout, config.retries), (7.0, 3))
        self.assertEqual(config.sources["timeout"], Source("environment", "NATPROXY_TIMEOUT"))
        config = self.load(timeout=9.0)
        self.assertEqual(config.timeout, 9.0)
        self.assertEqual(config.sources["timeout"], Source("option", "--timeout"))

    def test_empty_variable_counts_as_not_set(self) -> None:
        self.environment["NATPROXY_TIMEOUT"] = ""
        self.assertEqual(self.load().timeout, 60.0)

    def test_variable_names_another_file(self) -> None:
        other = self.mktemp()
        with open(other, "w") as file:
            file.write("retry-for = inf\n")
        self.write("timeout = 5\n")
        self.environment["NATPROXY_CONFIG"] = other
        self.assertEqual(self.load().retry_for, math.inf)
        self.assertEqual(self.load().timeout, 60.0)

    def test_file_that_the_variable_names_must_exist(self) -> None:
        self.environment["NATPROXY_CONFIG"] = "missing.toml"
        self.assertEqual(self.error(), "missing.toml: No such file or directory")

    def test_default_directory_is_in_the_home_directory(self) -> None:
        for base in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
            with mock.patch.dict(os.environ, HOME="/home/somewhere"):
                expected = "/home/somewhere/.config/natproxy/config.toml"
                self.assertEqual(config_path(base), expected)
        self.assertEqual(config_path({"HOME": "/h"}), "/h/.config/natproxy/config.toml")

    def test_working_directory_is_no_home_directory(self) -> None:
        self.write("colour = 1\n")
        relative = os.path.relpath(self.home)
        os.rename(self.home, f"{self.home}-home")
        os.makedirs(self.home)
        os.rename(f"{self.home}-home", os.path.join(self.home, ".config"))
        self.environment = {"HOME": relative}
        self.assertEqual(self.load().timeout, 60.0)
        # Without $HOME, for a user that the system does not have.
        self.environment = {}
        with mock.patch("os.path.expanduser", lambda path: path):
            self.assertIsNone(config_path({}))
            self.assertEqual(self.load().timeout, 60.0)

    def test_without_a_home_directory_there_is_no_file(self) -> None:
        working = os.getcwd()
        self.addCleanup(os.chdir, working)
        os.chdir(self.home)
        os.makedirs("~/.config/natproxy")
        with open("~/.config/natproxy/config.toml", "w") as file:
            file.write("timeout = 1\n")
        with mock.patch("os.path.expanduser", lambda path: path):
            self.assertEqual(load_client_config({}, {}).timeout, 60.0)


class PathTests(ConfigCase):
    def test_home_directory_is_expanded_in_files_and_variables(self) -> None:
        self.write('ca = "~/ca.pem"\n')
        self.environment["NATPROXY_CERT"] = "~/cert.pem"
        with mock.patch.dict(os.environ, HOME="/home/ann"):
            config = self.load()
        self.assertEqual((config.ca, config.cert), ("/home/ann/ca.pem", "/home/ann/cert.pem"))


class ErrorTests(ConfigCase):
    def test_unknown_key_names_the_nearest_known_one(self) -> None:
        self.write("conect_timeout = 1\n")
        self.assertEqual(
            self.error(), f"{self.path}: conect_timeout: unknown key; did you mean connect-timeout?"
        )

    def test_unknown_key_like_no_known_one(self) -> None:
        self.write("colour = 1\n")
        self.assertIn("colour: unknown key; known are ca, cert, connect-timeout,", self.error())

    def test_unknown_key_is_an_error_whatever_the_options(self) -> None:
        self.write("timeout = 5\ncolour = 1\n")
        wrong = self.assertRaises(UsageError, self.load, timeout=1.0)
        self.assertIn("colour", str(wrong))

    def test_wrong_values_name_file_and_key(self) -> None:
        for line, message in (
            ("server = 9000", "server 9000: must be a string, HOST:PORT"),
            ('server = "a b"', 'server "a b": HOST:PORT is needed'),
            ('timeout = "60"', 'timeout "60": must be a number of seconds'),
            ("timeout = true", "timeout true: must be a number of seconds"),
            ("timeout = 0", "timeout 0: must be more than 0 and at most 1000000 seconds"),
            ("timeout = nan", "timeout nan: must be more than 0 and at most 1000000 seconds"),
            ('server = "a\\u0000:1"', 'server "a\\u0000:1": must not contain a NUL character'),
            ("retries = 1001", "retries 1001: must be a whole number from 0 to 1000"),
            ("retries = 1.0", "retries 1.0: must be a whole number from 0 to 1000"),
            ('retry-for = "soon"', 'retry-for "soon": must be a duration'),
            ("retry-for = -1", "retry-for -1: must be a duration"),
            ('wait = "yes"', 'wait "yes": must be true or false'),
            ("wait = {}", "wait {}: must be true or false"),
            (f"timeout = {10**400}", f"timeout {str(10**400)[:79]}…: must be more than 0"),
            (f"retry-for = {10**400}", f"retry-for {str(10**400)[:79]}…: must be a duration"),
            (f"retries = {16**5000:#x}", f"retries {hex(16**5000)[:79]}…: must be a whole"),
            ('server = "a\\u0085 b"', 'server "a\\x85 b": HOST:PORT is needed'),
            ('"a\\nb" = 1', "a\\nb: unknown key"),
        ):
            self.write(f"{line}\n")
            self.assertTrue(self.error().startswith(f"{self.path}: {message}"), self.error())

    def test_wrong_variable_is_named(self) -> None:
        for name, value in (("TIMEOUT", "soon"), ("RETRIES", "-1"), ("WAIT", "perhaps")):
            self.environment = {f"NATPROXY_{name}": value}
            self.assertTrue(self.error().startswith(f"$NATPROXY_{name} {value}: must be "))

    def test_malformed_file(self) -> None:
        self.write("timeout: 5\n")
        self.assertTrue(self.error().startswith(f"{self.path}: not a TOML file: "), self.error())

    def test_file_that_cannot_be_read(self) -> None:
        os.mkdir(self.path)
        self.assertEqual(self.error(), f"{self.path}: Is a directory")

    def test_path_with_a_nul(self) -> None:
        wrong = self.assertRaises(UsageError, load_client_config, {}, {}, "a\0b")
        self.assertEqual(str(wrong), "a\\x00b: embedded null byte")

    def test_endless_file(self) -> None:
        self.environment["NATPROXY_CONFIG"] = "/dev/zero"
        reason = "not a file of settings: larger than 1048576 bytes"
        self.assertEqual(self.error(), f"/dev/zero: {reason}")

    def test_file_that_is_not_utf_8(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b"timeout = 1 # \xff\n")
        self.assertTrue(self.error().startswith(f"{self.path}: not a TOML file: "), self.error())

    def test_wrong_value_of_the_file_is_an_error_whatever_the_options(self) -> None:
        self.write("timeout = 0\n")
        wrong = self.assertRaises(UsageError, self.load, timeout=1.0)
        self.assertIn(f"{self.path}: timeout 0: must be", str(wrong))
        self.write("timeout = 1\n")
        self.environment["NATPROXY_TIMEOUT"] = "wrong"
        self.assertEqual(self.load(timeout=2.0).timeout, 2.0)

    def test_missing_parser_names_the_extra(self) -> None:
        self.write("timeout = 5\n")
        name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
        with mock.patch.dict(sys.modules, {name: None}):
            self.assertEqual(
                self.error(),
                f"{self.path}: TOML on Python 3.10 needs tomli: pip install 'natproxy[config]'",
            )
