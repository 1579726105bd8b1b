"""The page's doors: what may be opened, who may see it, what is refused. A real server, asked without a browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_server import Client, Served, served, wait_for
from long_runs import make_clip
from PIL import Image
from video_files import make

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")

from hetcache.cli import parse
from hetcache.files import digest
from hetcache.masking.make import make_mask
from hetcache.masking.prompts import Box, Point
from hetcache.masking.saving import save_mask
from hetcache.queue.store import Queue

BOX = {"kind": "box", "frame": 0, "box": [14, 18, 48, 52]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = "--max-mib 1 --max-seconds 5 --max-frames 60 --max-pixels 100000 --no-worker".split()
    with served(tmp_path_factory.mktemp("served"), *limits) as found:
        yield found


@pytest.fixture
def client(server: Served) -> Client:
    return Client(server)


def owner_of(client: Client) -> str:
    return digest("hetcache session ", client.cookie.partition("=")[2])[:32]


def upload(client: Client, path: Path, name: str | None = None) -> dict:
    from urllib.parse import quote

    return client.post(f"/app/clip?name={quote(name or path.name)}", path.read_bytes())


def test_from_a_clip_to_the_mask_that_the_library_makes(client: Client, clip: Path, tmp_path: Path) -> None:
    state = upload(client, clip / "v.mp4", "../My clip.mp4")
    opened = state["clip"]
    assert (opened["name"], opened["width"], opened["height"], opened["num_frames"]) == ("My_clip.mp4", 96, 72, 17)
    status, jpeg, _ = client.ask("GET", f"/app/frame/{opened['version']}/16.jpg")
    assert status == 200 and Image.open(io.BytesIO(jpeg)).size == (96, 72)
    assert client.ask("GET", "/app/mask/0.png")[0] == 204
    point = {"kind": "point", "frame": 8, "point": [46, 34], "positive": True}
    assert client.post("/app/marks", [BOX, point])["marks"] == [BOX, point]
    status, png, _ = client.ask("GET", "/app/mask/0.png")
    assert status == 200 and np.asarray(Image.open(io.BytesIO(png)))[..., 3].any()
    client.post("/app/propagate")
    mask = wait_for(lambda: (m := client.get("/app/state")["mask"])["state"] in ("ready", "failed") and m)
    assert mask["state"] == "ready" and not mask["stale"], mask
    assert client.ask("GET", "/app/mask/16.png")[0] == 200
    marks = (Box(14, 18, 48, 52), Point(46, 34, frame=8))
    ours = tmp_path / "mask.mp4"
    save_mask(make_mask(clip / "v.mp4", marks), clip / "v.mp4", marks, ours)
    session = client.server.folder / "clips" / owner_of(client)
    (made,) = session.rglob("mask.mp4")
    assert made.read_bytes() == ours.read_bytes()
    assert client.post("/app/marks", [BOX])["mask"]["stale"]


def test_a_painted_frame_is_kept_at_the_clip_s_size(client: Client, clip: Path) -> None:
    upload(client, clip / "v.mp4")
    painted = np.zeros((72, 96, 4), np.uint8)
    painted[10:30, 10:40] = (226, 60, 48, 115)
    buffer = io.BytesIO()
    Image.fromarray(painted).save(buffer, "PNG")
    (mark,) = client.post("/app/painted/3", buffer.getvalue())["marks"]
    assert mark["kind"] == "painted" and mark["frame"] == 3
    _, png, _ = client.ask("GET", "/app/mask/3.png")
    alpha = np.asarray(Image.open(io.BytesIO(png)))[..., 3] > 0
    assert alpha[10:30, 10:40].all() and alpha.sum() == 600
    assert "no PNG" in client.refused("POST", "/app/painted/3", b"GIF89a")
    assert "frame 17: the clip has 17 frames" in client.refused("POST", "/app/painted/17", buffer.getvalue())


BAD = {
    "empty.mp4": (b"", "the file is empty"),
    "text.mp4": (b"this is no video at all\n" * 40, "text.mp4: "),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "list.m3u8: "),
    "list.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "list.mp4: "),
    "page.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "page.svg: "),
    "large.mp4": (bytes(2 << 20), "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_says_why_and_leaves_nothing(name: str, client: Client) -> None:
    data, message = BAD[name]
    words = client.refused("POST", f"/app/clip?name={name}", data)
    assert message in words and str(client.server.folder) not in words and "\n" not in words
    assert client.get("/app/state")["clip"] is None
    session = client.server.folder / "clips" / owner_of(client)
    assert not [path for path in session.rglob("*") if path.is_file()]


def test_limits_of_length_and_pixels(client: Client, clip: Path, tmp_path: Path) -> None:
    frames = np.zeros((70, 16, 16, 3), np.uint8)
    long = make(tmp_path / "long.mp4", "-c:v", "libx264", frames=frames, rate=10)
    assert "lasts 7 s, more than 5 s" in client.refused("POST", "/app/clip?name=long.mp4", long.read_bytes())
    many = make(tmp_path / "many.mp4", "-c:v", "libx264", frames=frames, rate=30)
    assert "more than 60 frames" in client.refused("POST", "/app/clip?name=many.mp4", many.read_bytes())
    large = make(tmp_path / "large.mp4", "-c:v", "libx264", frames=np.zeros((1, 320, 320, 3), np.uint8), rate=10)
    assert "320x320 is more than 100000 pixels" in client.refused(
        "POST", "/app/clip?name=large.mp4", large.read_bytes()
    )
    state = upload(client, clip / "v.mp4")
    assert "lasts" in client.refused("POST", "/app/clip?name=long.mp4", long.read_bytes())
    assert client.get("/app/state")["clip"] == state["clip"], "a bad upload takes nothing away"


def test_an_upload_of_no_stated_length_is_cut_off(client: Client) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", client.server.port), timeout=30) as connection:
        head = f"POST /app/clip?name=x.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {client.cookie}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode())
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            for _ in range(40):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except OSError:
            pass
    assert not answer or b"422" in answer.split(b"\r\n")[0]
    session = client.server.folder / "clips" / owner_of(client)
    assert not [path for path in session.rglob("*") if path.is_file()]


OUTSIDE = [
    "/app/static/../command.py",
    "/app/static/..%2fcommand.py",
    "/app/static/%2e%2e%2fcommand.py",
    "/app/static//etc/passwd",
    "/app/frame/1/..%2f..%2f..%2fsession.json",
    "/app/jobs/1/..%2f..%2fstate.json",
    "/app/jobs/1/job.json",
    "/app/jobs/../../etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/file=/etc/passwd",
    "/gradio_api/file%3D/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "//gradio_api/file=/etc/passwd",
    "/./gradio_api/file=/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1/",
    "/gradio_api/stream/x/y/z",
    "/static/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(path: str, client: Client, clip: Path) -> None:
    upload(client, clip / "v.mp4")
    status, data, _ = client.ask("GET", path)
    assert status in (400, 403, 404, 405, 422), (status, data[:200])
    assert b"root:" not in data and b"OneLineParser" not in data


def test_the_library_takes_no_files(client: Client) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nx\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.ask("POST", "/gradio_api/upload", body, headers)[0] == 404
    assert client.ask("PUT", "/app/state", b"")[0] == 405
    for path in ("/docs", "/openapi.json", "/gradio_api/info", "/gradio_api/runs"):
        assert client.ask("GET", path)[0] == 404, path


def test_two_browsers_do_not_see_each_other(server: Served, clip: Path) -> None:
    one, two = Client(server), Client(server)
    upload(one, clip / "v.mp4")
    assert two.get("/app/state")["clip"] is None
    assert two.ask("GET", "/app/frame/1/0.jpg")[0] == 422
    queue = Queue(server.folder / "queue")
    files = ["--video", str(clip / "v.mp4"), "--mask", str(clip / "m.mp4")]
    job = queue.add(parse(files), owner=owner_of(one))
    job.log.write_text("said")
    assert [found["number"] for found in one.get("/app/jobs")] == [job.number] and two.get("/app/jobs") == []
    assert one.ask("GET", f"/app/jobs/{job.number}/log.txt")[1] == b"said"
    assert two.refused("GET", f"/app/jobs/{job.number}/log.txt") == two.refused(
        "GET", "/app/jobs/99999/log.txt"
    ).replace("99999", str(job.number))
    for action in ("cancel", "again", "remove"):
        assert "there is none" in two.refused("POST", f"/app/jobs/{job.number}/{action}")
    assert one.post(f"/app/jobs/{job.number}/cancel")[0]["state"] == "cancelled"
    assert one.post(f"/app/jobs/{job.number}/remove") == []


def test_a_guessed_cookie_opens_nothing(client: Client, clip: Path) -> None:
    upload(client, clip / "v.mp4")
    for cookie in (f"hetcache={owner_of(client)}", "hetcache=../..", "hetcache=", f"hetcache={'0' * 48}"):
        status, data, _ = client.ask("GET", "/app/state", None, {"Cookie": cookie})
        assert status == 200 and json.loads(data)["clip"] is None


def test_other_sites_get_nothing(client: Client) -> None:
    assert client.ask("POST", "/app/example", b"", {"Origin": "http://evil.example"})[0] == 403
    assert client.ask("GET", "/app/state", None, {"Host": "evil.example"})[0] == 403
    assert client.ask("POST", "/app/propagate", b"", {"Origin": client.server.url.rstrip("/")})[0] == 422
    status, _, headers = client.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'self'" in policy and "http" not in policy
    fresh = Client(client.server)
    _, _, headers = client.ask("GET", "/app/state", None, {"Cookie": ""})
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    assert fresh.cookie != client.cookie


def test_marks_that_do_not_fit_are_refused(client: Client, clip: Path) -> None:
    assert "no clip is open" in client.refused("POST", "/app/marks", json.dumps([BOX]).encode())
    upload(client, clip / "v.mp4")
    assert "marks: not JSON" in client.refused("POST", "/app/marks", b"{")
    assert "reaches out of the picture" in client.refused(
        "POST", "/app/marks", json.dumps([{**BOX, "box": [0, 0, 500, 20]}]).encode()
    )
    assert "the clip has 17 frames" in client.refused("POST", "/app/marks", json.dumps([{**BOX, "frame": 17}]).encode())
    assert "nothing is marked" in client.refused("POST", "/app/propagate")
    assert "more than 1 MiB" in client.refused("POST", "/app/marks", b" " * (2 << 20))


def test_a_password_is_asked_for_everything(tmp_path: Path) -> None:
    with served(tmp_path, "--auth", "me:open sesame", "--no-worker") as server:
        client = Client(server)
        for path in ("/", "/app/state", "/app/static/stage.js", "/config"):
            status, _, headers = client.ask("GET", path)
            assert status == 401 and headers["www-authenticate"].startswith("Basic"), path
        wrong, right = (base64.b64encode(text).decode() for text in (b"me:open sesamE", b"me:open sesame"))
        assert client.ask("GET", "/app/state", None, {"Authorization": f"Basic {wrong}"})[0] == 401
        assert client.ask("GET", "/app/state", None, {"Authorization": "Basic %%%"})[0] == 401
        assert client.ask("GET", "/app/state", None, {"Authorization": f"Basic {right}"})[0] == 200
