"""Dockerfiles become instructions, steps and a configuration; what is not understood is refused with file and line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model.catalog import ImageConfig
from banger.model.dockerfile import Dockerfile, parse
from banger.model.dockerignore import compiled, parse_ignored
from banger.model.dockerwords import WordError, expand, pairs, split
from banger.model.errors import BadRequest
from banger.model.recipe import Copy, Folder, Inline, Recipe, Run, check_given, first_key, next_key, recipe, start_of, unclaimed, whole_key

BASE = ImageConfig(env={"PATH": "/bin"}, cmd=("/bin/sh",))


def read(text: str) -> Dockerfile:
    return parse(text, file="Dockerfile")


def cook(text: str, base: ImageConfig = BASE, /, **given: str) -> Recipe:
    return recipe(read(f"FROM box\n{text}"), base, given)


def runs(text: str, /, **given: str) -> list[Run]:
    return [step for step in cook(text, **given).steps if isinstance(step, Run)]


def copies(text: str, /, **given: str) -> list[Copy]:
    return [step for step in cook(text, **given).steps if isinstance(step, Copy)]


def test_lines_are_joined_comments_left_out_and_counted() -> None:
    made = read("# first\n\nfrom\tbox\nRUN a \\\n  # between\n\n  b \\  \n  c\nRUN d\\\\\n")
    assert [(one.name, one.line, one.text) for one in made.body] == [("RUN", 4, "a   b   c"), ("RUN", 9, "d\\\\")]
    assert made.start.line == 3


def test_another_character_may_join_lines() -> None:
    made = read("# escape=`\nFROM box\nRUN a `\n b\\\nENV X=`$Y\n")
    assert [one.text for one in made.body] == ["a  b\\", "X=`$Y"]
    assert recipe(made, BASE, {}).config.env["X"] == "$Y"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no FROM"),
        ("RUN x", "has no FROM"),
        ("ENV A=b\nFROM box", "1: ENV before FROM"),
        ("FROM a\nRUN x\nFROM b", "3: a second FROM"),
        ("FROM a\nCOPY --from=b /x /y", "2: COPY --from"),
        ("FROM a\nVOLUME /data", "2: 'VOLUME' is not supported"),
        ("FROM a\nHEALTHCHECK NONE", "2: 'HEALTHCHECK' is not supported"),
        ("FROM a\n\nFRUN x", "3: 'FRUN' is not supported"),
        ("FROM a\nRUN --mount=type=cache,target=/x y", "2: RUN --mount is not supported"),
        ("FROM a\nCOPY --chown=1 --chown=2 a b", "2: the flag --chown stands twice"),
        ("FROM a\nRUN", "2: RUN of nothing"),
        ("FROM a\nRUN []", "2: RUN of nothing"),
        ("FROM a\nSHELL /bin/bash", "2: SHELL takes a JSON list"),
        ("FROM a\nRUN <<EOF\nx\n", "2: the here-document EOF does not end"),
        ("# escape=x\nFROM a", "1: escape='x'"),
        ("# escape=`\n# escape=`\nFROM a", "2: the directive escape stands twice"),
        ("FROM a\nRUN \0", "2: a zero byte"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match="Dockerfile") as caught:
        read(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("COPY a", "2: COPY takes what is copied"),
        ("COPY ../a b", "COPY ../a b: it leads outside"),
        ("COPY a/../../b c", "leads outside"),
        ("ADD https://example.com/x?token=1 /y", "an address is no file"),
        ("ADD git@example.com:x.git /y", "an address is no file"),
        ("COPY --chmod=u+x a b", "--chmod takes a mode"),
        ("COPY --chown= a b", "--chown of nothing"),
        ("COPY 'a b", "a ' that does not end"),
        ('ENV X="a', 'a " that does not end'),
        ("ENV X", "X has no value"),
        ("ENV A=1 B", "B has no value"),
        ("ENV =1", "a name is missing"),
        ("WORKDIR $NONE", "WORKDIR takes one word"),
        ("USER a b", "USER takes one word, not 2"),
        ("ENV X=${A%b}", "${A%...} is not supported"),
        ("ENV X=${A", "${A does not end with }"),
        ("ENV X=${A:?give one}", "the variable A is not set: give one"),
        ("ARG 1a=2", "a name that no variable can have"),
        ("EXPOSE http", "EXPOSE http: that is no port"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        cook(text)
    assert str(caught.value).startswith("Dockerfile:2: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("$x ${x} \"$x\" '$x' \\$x", ["1 2", "1 2", "1 2", "$x", "$x"]),
        ("${n:-y} ${n-y} ${e:-y} ${e-y}.", ["y", "y", "y", "."]),
        ("${x:+y} ${e:+y}. ${e+y} ${n+y}.", ["y", ".", "y", "."]),
        ("${n:-${x}} ${n:-a b}", ["1 2", "a b"]),
        ("$n '' $", ["", "$"]),
        ('"a\\"b\\\\c\\d"', ['a"b\\c\\d']),
        ("${x:?no}", ["1 2"]),
    ],
)
def test_words_are_a_shells(text: str, words: list[str]) -> None:
    assert split(text, {"x": "1 2", "e": ""}, "\\") == words


def test_pairs_come_in_two_forms() -> None:
    assert pairs('A=1 B="x y" C=\\ z', {}, "\\") == [("A", "1"), ("B", "x y"), ("C", " z")]
    assert pairs('A some "words" of $x', {"x": "one"}, "\\") == [("A", "some words of one")]


def test_arguments_hold_from_their_line_on_and_variables_win() -> None:
    text = "RUN a\nARG V=1\nRUN b\nARG W\nENV V=3\nRUN c"
    assert [{name: value for name, value in step.env.items() if name != "PATH"} for step in runs(text, W="2")] == [{}, {"V": "1"}, {"V": "3", "W": "2"}]
    assert cook(text, W="2").config.env == {"PATH": "/bin", "V": "3"}


def test_path_is_what_commands_have_where_the_image_says_nothing() -> None:
    made = cook("RUN a\nENV PATH=/opt:$PATH\nRUN b", ImageConfig())
    first, second = (step.env for step in made.steps if isinstance(step, Run))
    assert (first, second["PATH"][:20]) == ({}, "/opt:/usr/local/sbin")


def test_arguments_before_from_choose_the_image_and_hold_later_only_where_they_are_named() -> None:
    made = read("ARG TAG=1\nARG NAME=box\nFROM ${NAME}:${TAG:-x} AS it\nRUN a\nARG TAG\nRUN b")
    assert (start_of(made, {}), start_of(made, {"TAG": "9"})) == ("box:1", "box:9")
    assert [step.env.get("TAG") for step in recipe(made, BASE, {"TAG": "9"}).steps if isinstance(step, Run)] == [None, "9"]
    assert unclaimed(made, {"TAG": "", "OTHER": "", "http_proxy": ""}) == ["OTHER"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FROM a b", "FROM takes one image"),
        ("FROM scratch", "nothing to boot"),
        ("FROM --platform=linux/arm64 a", "--platform"),
        ("FROM $A", "one image"),
    ],
)
def test_what_cannot_be_started_from_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=r"Dockerfile:1: ") as caught:
        start_of(read(text), {})
    assert says in str(caught.value)


def test_commands_have_a_shell_or_are_words() -> None:
    text = 'RUN a $X && b\nRUN ["a", "$X"]\nSHELL ["/bin/bash", "-ec"]\nRUN c\nRUN [ -f x ]'
    assert [step.argv for step in runs(text)] == [
        ("/bin/sh", "-c", "a $X && b"),
        ("a", "$X"),
        ("/bin/bash", "-ec", "c"),
        ("/bin/bash", "-ec", "[ -f x ]"),
    ]


def test_here_documents_are_scripts_or_a_shells_own() -> None:
    text = "RUN <<EOF\necho $X\n  # kept\nEOF\n"
    text += "RUN <<-'END'\n\t#!/usr/bin/env python3\n\tprint(1)\n\tEND\n"
    text += "RUN cat <<-A > /a && cat <<B\n\tone\n\tA\n\ttwo\nB\nRUN echo '<<EOF'"
    scripts, own, several, plain = runs(text)
    assert scripts.argv == ("/bin/sh", "-c", "echo $X\n  # kept\n")
    assert (own.argv, own.script) == ((), "#!/usr/bin/env python3\nprint(1)\n")
    assert several.argv[2] == "cat <<A > /a && cat <<B\none\nA\n\ttwo\nB\n"
    assert plain.argv[2] == "echo '<<EOF'"


def test_files_may_stand_in_the_dockerfile() -> None:
    first, second = copies("ARG X=1\nCOPY <<a <<'b' /etc/\n$X \"q\"\na\n$X\nb\nCOPY --chmod=755 <<run.sh /bin/go\n#!/bin/sh\nrun.sh")
    assert first.files == (Inline(name="a", text='1 "q"\n'), Inline(name="b", text="$X\n"))
    assert (first.target, first.into, first.sources) == ("/etc", True, ())
    assert (second.target, second.into, second.mode) == ("/bin/go", False, 0o755)


def test_copies_know_where_to_and_as_whose() -> None:
    text = 'WORKDIR /srv\nWORKDIR app\nCOPY a b c/\nCOPY --chown=${U:-web}:staff --link x y\nADD ["a b", "/"]\nCOPY . .\nCOPY a "/with blank"'
    made = copies(text)
    assert [(step.target, step.into) for step in made] == [
        ("/srv/app/c", True),
        ("/srv/app/y", False),
        ("/", True),
        ("/srv/app", True),
        ("/with blank", False),
    ]
    assert (made[1].owner, made[2].sources, made[2].unpack, made[0].unpack) == ("web:staff", ("a b",), True, False)
    assert [step.target for step in cook(text).steps if isinstance(step, Folder)] == ["/srv", "/srv/app"]


def test_the_configuration_is_what_the_last_lines_say() -> None:
    base = ImageConfig(env={"A": "1"}, entrypoint=("/old",), cmd=("old",), user="ada", workdir="/home")
    text = "ENV B=$A C='$A'\nUSER web:web\nWORKDIR x\nENTRYPOINT [\"/new\"]\nSTOPSIGNAL SIGINT\nLABEL a=b\nEXPOSE 80 443/tcp\nMAINTAINER me"
    made = cook(text, base).config
    assert made == ImageConfig(
        env={"A": "1", "B": "1", "C": "$A"}, entrypoint=("/new",), cmd=(), user="web:web", workdir="/home/x", stop_signal="SIGINT"
    )
    assert cook("CMD x y\nENTRYPOINT z", base).config.cmd == ("/bin/sh", "-c", "x y")
    assert cook("CMD []", base).config.cmd == ()


def test_keys_follow_what_makes_a_difference() -> None:
    base = first_key("sha256:1", BASE)

    def key(text: str, /, **given: str) -> str:
        made = base
        for step in cook(text, **given).steps:
            made = next_key(made, step, "")
        return made

    assert key("RUN a") == key("# a comment\n\nRUN a") != key("RUN b")
    assert key("ARG X=1\nRUN a") != key("ARG X=2\nRUN a") == key("ARG X=1\nRUN a", X="2")
    assert key("RUN a\nENV X=1") == key("RUN a") != key("ENV X=1\nRUN a")
    assert key("USER ada\nRUN a") != key("RUN a")
    step = cook("COPY a b").steps[0]
    assert next_key(base, step, "1") != next_key(base, step, "2")
    assert whole_key(base, BASE, "linux") != whole_key(base, ImageConfig(), "linux")
    assert first_key("sha256:2", BASE) != base


def test_values_of_build_arguments_are_in_no_message() -> None:
    for bad in ({"A-B": "secret"}, {"A": "secret\0"}):
        with pytest.raises(BadRequest) as caught:
            check_given(bad)
        assert "secret" not in str(caught.value)
    (step,) = runs("ARG TOKEN\nRUN curl -H $TOKEN", TOKEN="secret")
    assert step.shown == "RUN curl -H $TOKEN"
    with pytest.raises(BadRequest) as caught:
        cook("ARG X\nUSER $X b", X="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*.txt", ["a.txt"], ["a/b.txt", "a.txt2"]),
        ("**/*.txt", ["a.txt", "a/b/c.txt"], ["a.py"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["a/bz"]),
        ("?[a-c][^x]", ["zay", "zcy"], ["zdy", "zax", "zay/"]),
        ("[]a]x", ["]x"], []),
        ("a\\*", ["a*"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_patterns_are_gos(pattern: str, matches: list[str], others: list[str]) -> None:
    if pattern == "[]a]x":
        with pytest.raises(ValueError, match="does not end"):
            compiled(pattern)
        return
    assert [path for path in matches + others if compiled(pattern).match(path)] == matches


def test_the_last_line_that_matches_counts() -> None:
    ignored = parse_ignored("# no\n*.md\n!README.md\n/build/\n!build/keep\nbuild/keep/not\n./x/../y\n", file=".dockerignore")
    left = ["a.md", "build", "build/x", "build/keep/not", "y", "y/z"]
    kept = ["README.md", "build/keep", "build/keep/yes", "a/b.md", "x"]
    assert [path for path in left + kept if ignored(path)] == left
    assert ignored.exceptions


@pytest.mark.parametrize("line", ["[a", "!", "a\\", "[b-a]"])
def test_malformed_patterns_are_named_by_line(line: str) -> None:
    with pytest.raises(BadRequest, match=r"x:2: "):
        parse_ignored(f"ok\n{line}\n", file="x")


LINES = st.lists(
    st.sampled_from(
        ["FROM a", "RUN x \\", "RUN <<E", "E", "COPY a b", "COPY <<F /x", "F", "ENV A=${B:-", "}", "# c", "", "ARG A=1", "USER ${A}", 'CMD ["a"', "]"]
    )
    | st.text(max_size=40),
    max_size=12,
)


@given(LINES)
def test_any_text_is_understood_or_refused_by_name(lines: list[str]) -> None:
    try:
        made = read("\n".join(lines))
        start_of(made, {})
        recipe(made, BASE, {})
    except BadRequest as error:
        named = str(error).startswith("Dockerfile")
    else:
        named = made.body == read("\n".join(lines)).body
    assert named


@given(st.text(max_size=60), st.dictionaries(st.sampled_from("abc"), st.text(max_size=5)))
def test_any_line_has_words_or_is_refused(text: str, variables: dict[str, str]) -> None:
    with suppress(WordError):
        assert expand(text, variables, "\\") is not None
        assert split(text, variables, "\\") is not None


@given(st.lists(st.text(alphabet="abc \"'$\\{}", max_size=6), max_size=5))
def test_quoted_words_come_back(words: list[str]) -> None:
    line = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in words)
    assert split(line, {}, "\\") == words


@given(st.text(alphabet="ab*?[]^-!/.\\\n", max_size=30), st.text(alphabet="ab/.", min_size=1, max_size=12))
def test_any_pattern_is_one_or_refused(text: str, path: str) -> None:
    with suppress(BadRequest):
        assert parse_ignored(text, file="x")(path) in (True, False)
