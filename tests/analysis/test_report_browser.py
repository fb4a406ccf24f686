"""The report in a real browser: nothing is fetched, every control does what it says."""

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import reported

from mslt.analysis.report.page import write_report

pytestmark = [
    pytest.mark.skipif(
        not browser.chromium(), reason="no chromium here (apt-get install chromium)"
    ),
    pytest.mark.xdist_group("browser"),
]

TAB, RIGHT, DOWN, SPACE = ("Tab", 9), ("ArrowRight", 39), ("ArrowDown", 40), (" ", 32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_report(reported.runs(folder), folder / "report.html", reported.looks(), "2026-11-25")
    return folder / "report.html"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.browser(browser.chromium(), tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(opened: browser.Page, file: Path) -> Iterator[browser.Page]:
    """The report, loaded anew; whatever a test does, nothing is complained of."""
    opened.look(1400)
    opened.open(file)
    yield opened
    assert opened.complaints == []
    opened.complaints.clear()


def inside(page: browser.Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def focus(page: browser.Page, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).focus()")


def test_it_loads_without_a_word_and_without_a_request(page, file):
    assert page.requests[-1:] == [file.as_uri()]
    assert set(page.requests) == {file.as_uri()}
    titles = page.run("[...document.querySelectorAll('h2')].map((h) => h.textContent).join()")
    assert titles == (
        "What was run,Stages,Curves,Tables,Speed and memory,Attention,Drift,Configuration"
    )


def test_text_that_would_like_to_be_code_stays_text(page):
    assert page.run("document.title").startswith(f"mslt: {reported.EVIL}")
    assert page.run("document.images.length + document.querySelectorAll('iframe').length") == 0
    assert page.run("document.scripts.length") == 2
    text = page.run("document.body.innerText")
    assert reported.EVIL in text
    assert reported.SCRIPT.replace("\u2028", " ") in text.replace("\u2028", " ")


def test_the_policy_lets_nothing_run_but_the_pages_own_script(page):
    tried = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; "
    page.run(f"(() => {{ {tried} document.body.append(s); }})()")
    page.run(
        "new Promise(r => { const i = new Image(); i.onerror = r; i.src = 'data:image/gif,'; })"
    )
    assert page.run("window.ran") is None
    assert all("Content Security Policy" in each for each in page.complaints)
    assert len(page.complaints) == 2
    page.complaints.clear()


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_does_not_scroll_sideways(page, width):
    page.look(width)
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.look(width)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_stages_are_as_wide_as_their_steps_or_their_time(page):
    widths = "[...document.querySelectorAll('.stage .frame')].map((r) => +r.getAttribute('width'))"
    by_steps = page.run(widths)
    assert len(by_steps) == 4  # three of the one plan, one of the other
    assert sum(by_steps[:3]) == pytest.approx(by_steps[3])
    blocks = "document.querySelectorAll('.stage')[1].querySelectorAll('.fixed').length"
    assert page.run(blocks) == 3  # two layers, and the embeddings
    focus(page, "#stages input[type=radio]")
    page.key(*RIGHT)
    assert page.run("document.querySelectorAll('#stages input')[1].checked")
    assert page.run(widths) == pytest.approx(by_steps)  # each step of these took as long


def test_a_stage_says_its_figures_to_who_goes_there_by_keyboard(page):
    page.run("document.querySelectorAll('.stage')[1].focus()")
    said = inside(page, "#stages .readout")
    assert "stage 2: 4 layers; the top 2 learn, the bottom 2 and the embeddings only run" in said
    assert "100 ms a step" in said
    assert "268MB" not in said
    assert "537MB of memory" in said


def test_the_slider_reads_the_curves(page):
    focus(page, "#curves input[type=range]")
    page.run("document.activeElement.value = 400")
    page.key(*RIGHT)
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "step 401"
    assert "At step 401" in inside(page, "#curves .readout")
    assert "2 (step 400)" in inside(page, "#curves .readout")
    assert page.run("document.querySelectorAll('#curves .cross').length") == 1


def test_the_mouse_reads_the_curves(page):
    page.run("document.querySelector('#curves .plot').scrollIntoView({behavior: 'instant'})")
    box = "document.querySelector('#curves .plot svg').getBoundingClientRect()"
    x, y, wide = page.run(f"(({{x, y, width}}) => [x, y, width])({box})")
    page.mouse(x + 58 + (wide - 72) / 2, y + 100)
    assert "At step 500" in inside(page, "#curves .readout")


def test_curves_are_chosen_by_measure_axis_plan_and_kind(page):
    lines = "document.querySelectorAll('#curves .plot path.line').length"
    label = "document.querySelector('#curves .plot svg').getAttribute('aria-label')"
    assert page.run(lines) == 6  # training and held-out of three runs
    page.run("document.querySelectorAll('#curves input[type=checkbox]')[1].click()")
    assert page.run(lines) == 3
    page.run("document.querySelector('#curves .legend input').click()")
    assert page.run(lines) == 1
    focus(page, "#curves input[type=radio]")
    page.key(*RIGHT)
    assert "against tokens" in page.run(label)
    page.key(*RIGHT)
    assert "against training time (seconds)" in page.run(label)
    focus(page, "#curves select")
    page.key(*DOWN)
    assert page.run(label).startswith("Masked-token accuracy")
    page.run("document.querySelectorAll('#curves input[type=checkbox]')[2].click()")
    first = "+document.querySelectorAll('#curves .plot text.soft')[0].textContent"
    assert page.run(first) == pytest.approx(0.375, abs=0.05)


def test_any_head_of_any_layer_of_any_model_on_any_sentence(page):
    cells = "document.querySelectorAll('#attention .heat')[0].querySelectorAll('.cell').length"
    name = "document.querySelectorAll('#attention .heat')[0].getAttribute('aria-label')"
    assert page.run(cells) == 25
    assert f"{reported.EVIL}, 2 layers, layer 2, head 1" in page.run(name)
    focus(page, "#attention select")
    page.key(*DOWN)
    assert page.run(cells) == 9
    page.run("document.querySelectorAll('#attention .card')[0].querySelector('select').focus()")
    page.key(*DOWN)
    assert "4 layers, layer 2" in page.run(name)
    for select, says in ((1, "layer 3, head 1"), (2, "layer 3, head 2")):
        page.run(f"document.querySelectorAll('#attention .card select')[{select}].focus()")
        page.key(*DOWN)
        assert says in page.run(name)


def test_a_map_says_whose_it_is_on_the_screen_and_on_paper(page):
    assert inside(page, "#attention figcaption") == f"{reported.EVIL}, 2 layers, layer 2, head 1"
    page.run("document.querySelectorAll('#attention .card select')[2].focus()")
    page.key(*DOWN)
    caption = f"{reported.EVIL}, 2 layers, layer 2, head 2"
    assert inside(page, "#attention figcaption") == caption
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert caption in page.run("document.querySelector('#attention').innerText")
    page.ask("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("dark", [False, True])
def test_the_scale_has_the_colours_of_the_maps(page, dark):
    page.look(1400, dark=dark)
    fills = (
        "[...document.querySelectorAll('#attention {} .cell')].map((c) => getComputedStyle(c).fill)"
    )
    # The second cell of a map has layer 2, head 1, row 1, column 2: see below.
    share = (2 + 7 * 51) % 256 / 255
    scale = page.run(fills.format(".shades"))
    cell = page.run(fills.format(".heat"))[1]
    assert cell in scale[int(share**0.5 * len(scale)) - 1 :][:3]


def test_a_wide_table_has_a_shadow_where_it_goes_on_and_keeps_its_first_column(page):
    page.look(360)
    sides = "document.querySelector('#speed .sides')"
    left = f"{sides}.querySelector('tbody th').getBoundingClientRect().left"
    place = page.run(left)
    assert page.run(f"{sides}.className") == "sides after"
    for x, names in ((40, "sides after before"), (9999, "sides before")):
        page.run(f"{sides}.firstChild.scrollLeft = {x}")
        page.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        assert sorted(page.run(f"{sides}.className").split()) == sorted(names.split())
        assert page.run(left) == place
    page.look(1400)
    assert page.run(f"{sides}.className") == "sides"


def test_arrow_keys_read_a_map(page):
    focus(page, "#attention .heat")
    page.key(*RIGHT)
    page.key(*RIGHT)
    said = inside(page, "#attention .readout")
    # Layer 2, head 1, row 1, column 2 of bytes (2 + 7 i) % 256, i = 2 * 25 + 1.
    share = (2 + 7 * 51) % 256 / 255
    assert said.startswith(f"“[CLS]” (1) looks at “the” (2) with {100 * share:.1f} %")


def test_a_small_map_opens_its_head(page):
    page.run("document.querySelector('#attention details').open = true")
    focus(page, "#attention .thumbs button")
    page.key(*SPACE, text=" ")
    name = "document.querySelector('#attention .heat').getAttribute('aria-label')"
    assert "layer 1, head 1" in page.run(name)
    pressed = "document.querySelector('#attention .thumbs button').getAttribute('aria-pressed')"
    assert page.run(pressed) == "true"


def test_light_and_dark_follow_the_system_and_the_choice(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.look(1400, dark=True)
    dark = page.run(ground)
    assert light != dark
    focus(page, "#theme input")
    page.key(*RIGHT)
    assert page.run(ground) == light
    page.look(1400)
    page.key(*RIGHT)
    assert page.run(ground) == dark


def test_the_tab_key_goes_from_the_first_link_to_every_control(page):
    seen = []
    for _ in range(45):
        page.key(*TAB)
        seen.append(page.run("document.activeElement.outerHTML.slice(0, 40)"))
    assert 'class="skip"' in seen[0]
    assert seen[1].startswith('<a href="#run"')
    for what in ('type="radio"', 'class="stage"', "<select", 'type="range"', "<summary"):
        assert any(what in each for each in seen), what
    assert any('class="chart heat"' in each for each in seen)


def test_how_to_run_it_again_is_there_to_be_copied(page):
    page.run("document.querySelector('#config details').open = true")
    texts = page.run(
        "[...document.querySelectorAll('#config details pre')].map(e => e.textContent)"
    )
    assert "method: mslt" in texts[0]
    assert texts[1].startswith("mslt pretrain --config '<img src=x onerror=alert(1)>-seed0.yaml'")
    assert "/home/somebody" not in page.run("document.documentElement.outerHTML")
    page.run("document.querySelector('#config button').click()")
    assert page.run("getSelection().toString()").startswith("steps: 1000")


def test_paper_shows_what_is_folded_on_a_screen(page):
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details[data-print]:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.querySelectorAll('details[open]').length") == 0
