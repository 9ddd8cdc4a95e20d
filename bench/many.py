"""Ten deploys at once; two of one name; bad input. Nothing may answer with a 5xx or leave anything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bench.common import keep, names, server
from bench.kill import compare

BAD = {
    "empty": {"name": ""},
    "200 characters": {"name": "x" * 200},
    "a path": {"name": "../x"},
    "upper case": {"name": "Hello"},
    "spaces": {"name": "a b"},
    "emoji": {"name": "\N{GRINNING FACE}"},
    "unknown framework": {"name": "ok", "framework": "nothing"},
    "negative memory": {"name": "ok", "memory": -1},
    "a list": ["name"],
    "no name": {},
    "a number": {"name": 7},
}


def main() -> None:
    """Do all three and print."""
    with server() as taos:
        taos.start()
        bad = {}
        for what, body in BAD.items():
            answer = taos.http.post("/api/agents/deploy", json=body)
            problem = answer.json()
            bad[what] = [answer.status_code, problem.get("code"), bool(problem.get("hint"))]
        raw = taos.http.post("/api/agents/deploy", content=b"{not json")
        bad["not JSON"] = [raw.status_code, raw.json().get("code"), bool(raw.json().get("hint"))]
        assert names("list", taos.project) == []

        def post(name: str) -> tuple[int, dict[str, object]]:
            answer = taos.http.post("/api/agents/deploy", json={"name": name})
            return answer.status_code, answer.json()

        with ThreadPoolExecutor(10) as pool:
            same = sorted(status for status, _ in pool.map(post, ["twin", "twin"]))
            ten = list(pool.map(post, [f"many{i}" for i in range(9)]))
        ended = []
        for job in taos.http.get("/api/jobs").json():
            done = taos.wait(job["id"], within=1200)
            ended.append({"subject": done["subject"], "state": done["state"],
                          "source": done["source"], "error": done["error"]})  # fmt: skip
        taos.wait_all()
        agents = {a["name"]: a["state"] for a in taos.http.get("/api/agents").json()}
        keep(
            "many",
            {
                "bad_input": bad,
                "two_of_one_name": same,
                "ten_statuses": [status for status, _ in ten],
                "ten_refusals": [body for status, body in ten if status != 202],
                "jobs": ended,
                "agents": agents,
                "differences": compare(taos),
            },
        )


if __name__ == "__main__":
    main()
