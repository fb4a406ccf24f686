import pytest

from mslt.data import pydocs
from mslt.data.pydocs import docstrings, documents, prose

MODULE = '''
"""The module speaks first."""

TEMPLATE = """
This is no docstring, it is a value.
"""


def function(x):
    r"""The function speaks next.

    It has a second paragraph.
    """
    call("""not this""")
    return x
'''

REST = """Compute the :class:`~package.module.Thing` of ``things`` in a `careful way <https://x.y>`_.

    The lines of a paragraph are joined,
    and one sentence follows another here.
    But not f(x) = y, and no more.  Two spaces end a sentence as well.

    .. versionadded:: 3.5

    Example of the usual use::

        >>> compute(things)
        [1, 2, 3]

    ===== =====
    left  right
    ===== =====

    :param things: All of those that are to be computed.
    :returns: The thing that came out of it.
    """

NUMPY = """
    Return evenly spaced values within a given interval.

    Parameters
    ----------
    start : int or float, optional
        This is the beginning of the interval.  The default
        start value is 0.

    Returns
    -------
    arange : ndarray
        Array of evenly spaced values.

    Examples
    --------
    >>> np.arange(3)
    array([0, 1, 2])
    """

GOOGLE = """Read a file and count its words.

    Args:
        path (str): The file that is to be read.
        limit (int, optional): How many words are counted at most. Defaults to 10.
            More are ignored by this function.

    Returns:
        A count for each of the words.

    - A list has items that are sentences.
    * And another one is here too.
    """


def test_docstrings_are_found_in_order():
    firsts = [docstring.split("\n")[0] for docstring in docstrings(MODULE)]
    assert firsts == ["The module speaks first.", "The function speaks next."]


@pytest.mark.parametrize(
    ("docstring", "wanted"),
    [
        (
            REST,
            [
                "Compute the Thing of things in a careful way.",
                "The lines of a paragraph are joined, and one sentence follows another here. "
                "Two spaces end a sentence as well.",
                "All of those that are to be computed.",
                "The thing that came out of it.",
            ],
        ),
        (
            NUMPY,
            [
                "Return evenly spaced values within a given interval.",
                "This is the beginning of the interval. The default start value is 0.",
                "Array of evenly spaced values.",
            ],
        ),
        (
            GOOGLE,
            [
                "Read a file and count its words.",
                "The file that is to be read.",
                "How many words are counted at most. More are ignored by this function.",
                "A count for each of the words.",
                "A list has items that are sentences.",
                "And another one is here too.",
            ],
        ),
    ],
    ids=["reST", "numpydoc", "Google"],
)
def test_prose_is_left_when_markup_and_code_are_gone(docstring, wanted):
    assert prose(docstring) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "x = a + b.",
        "Return self[key] for the given key.",
        "Left   right   middle   up   down.",
        "too few words.",
        "No stop at the end of it",
        "Use snake_case names for all of them.",
        "See https://example.com for more of this.",
        "| A | table | of | four | words. |",
        "# A comment in the code of it.",
    ],
)
def test_what_is_no_prose_is_left_out(text):
    assert prose(text) == []


@pytest.fixture
def installation(tmp_path, monkeypatch):
    monkeypatch.setattr(pydocs, "_roots", lambda: [tmp_path])
    monkeypatch.setattr(pydocs, "cores", lambda: 1)
    documents.cache_clear()
    yield tmp_path
    documents.cache_clear()


def module(path, *sentences):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(f'"""{sentence}"""' for sentence in sentences))


def test_each_module_is_a_document_in_the_order_of_paths(installation):
    module(installation / "b" / "__init__.py", "This is the package that is called b.")
    module(installation / "a.py", "This is a module of its own.", "It has two docstrings in it.")
    module(installation / "b" / "sub" / "c.py", "This is a module that lies deep.")
    module(installation / "b" / "empty.py")
    module(installation / "b" / "tests" / "t.py", "This is only a test of b.")
    module(installation / "site-packages" / "p.py", "This belongs to another root of modules.")
    assert documents() == [
        ["This is a module of its own.", "It has two docstrings in it."],
        ["This is the package that is called b."],
        ["This is a module that lies deep."],
    ]


def test_a_paragraph_is_kept_once(installation):
    same = "The same paragraph is in both, with 2 words changed."
    module(installation / "a.py", same, same, "Only the first has this one.")
    module(installation / "b.py", same.replace("2", "3"), "Only the second has this one.")
    assert documents() == [
        [same, "Only the first has this one."],
        ["Only the second has this one."],
    ]


@pytest.mark.parametrize("place", ["lib", "_work/lib"])
def test_of_a_large_package_the_public_part_comes_first(installation, monkeypatch, place):
    installation /= place
    monkeypatch.setattr(pydocs, "_roots", lambda: [installation])
    names = {"_inner/z.py": "z", "_a.py": "a", "b.py": "b", "c/__init__.py": "c"}
    for path, name in names.items():
        module(installation / "large" / path, f"This is the module called {name}.")
    size = (installation / "large" / "b.py").stat().st_size
    monkeypatch.setattr(pydocs, "_PACKAGE_BYTES", 2 * size)
    assert documents() == [["This is the module called b."], ["This is the module called c."]]


def test_a_link_that_leads_nowhere_is_passed_over(installation):
    module(installation / "b.py", "This is the module that can be read.")
    (installation / "a.py").symlink_to(installation / "nowhere.py")
    assert documents() == [["This is the module that can be read."]]


def test_bad_bytes_in_a_module_do_no_harm(installation):
    (installation / "a.py").write_bytes(
        b'"""This module was written in \xe9."""\n"""It is fine after all, you see."""'
    )
    assert documents()[0][-1] == "It is fine after all, you see."
