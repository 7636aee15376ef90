"""Retrieval quality on two classic collections, through the product's own upload, indexing and search.

    python -m tests.bench.retrieval_quality [--data ../shared/data/retrieval] [--collection cranfield] [--features FILE]

Prints nDCG@10 (as in BEIR) of dense search, of full text and of both fused, and how well the scores of the best passages tell questions the
store can answer from questions about something else. Takes a minute or two a collection on two cores. `--features` writes one JSON line a
question, for fitting thresholds.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.embedding import SentenceEmbedder
from adapters.sentences import content_words
from config.database import open_database
from retrieval.blobs import FolderBlobs
from retrieval.ingest import Ingestor
from retrieval.search import DEPTH, Searcher, fuse
from retrieval.store import Documents
from retrieval.text_index import text_index
from retrieval.values import SearchRequest
from retrieval.vectorindex import FlatIndex
from router.launch import migrate_state

ROOT = Path(__file__).resolve().parents[2]

UNRELATED = (
    "How do I bake sourdough bread without a Dutch oven?",
    "Who won the football world cup in 1998?",
    "What is the capital of Mongolia?",
    "How many vacation days do employees get in their first year?",
    "What are the symptoms of iron deficiency?",
    "Which wine goes well with salmon?",
    "When was the treaty of Westphalia signed?",
    "How do I reset the password of my email account?",
    "What is our refund policy for damaged goods?",
    "Give me a recipe for vegetarian lasagne.",
    "Who wrote the novel Middlemarch?",
    "What does the visa application for Japan cost?",
    "How tall is the Eiffel Tower?",
    "What is the notice period in the rental agreement?",
    "How often should I water a cactus?",
    "Which planets have rings?",
)


def ndcg(ranking: Sequence[str], relevant: dict[str, int], k: int = 10) -> float:
    gain = sum((2 ** relevant.get(item, 0) - 1) / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], 1))
    ideal = sum((2**score - 1) / math.log2(rank + 1) for rank, score in enumerate(sorted(relevant.values(), reverse=True)[:k], 1))
    return gain / ideal if ideal else 0.0


def read_collection(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = {row["_id"]: row["text"] if row["text"].startswith(row["title"]) else f"{row['title']}\n\n{row['text']}" for row in map(json.loads, lines)}
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())}
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels_test.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        judged[query][document] = int(score)
    return corpus, queries, judged


async def index(documents: Documents, ingestor: Ingestor, corpus: dict[str, str]) -> tuple[str, dict[str, str]]:
    store = await documents.create_store("bench")
    names: dict[str, str] = {}
    for name, text in corpus.items():
        if text.strip():
            file = await documents.add_file("bench", filename=f"{name}.txt", data=text.encode())
            names[file.id] = name
            await documents.attach("bench", store.id, file.id)
    started = time.perf_counter()
    while await asyncio.to_thread(ingestor.run_once):
        pass
    print(f"  indexed {len(names)} documents in {time.perf_counter() - started:.0f} s")
    return store.id, names


def rankings(db: Any, embedder: SentenceEmbedder, flat: FlatIndex, store: str, names: dict[str, str], query: str) -> dict[str, list[str]]:
    vector = embedder.embed([query], "query")
    dense = [neighbour.chunk for neighbour in flat.search("bench", [store], vector, DEPTH)]
    words = db.read_blocking(lambda c: text_index(db.dialect).search(c, "bench", [store], query, DEPTH))
    fused = [chunk for chunk, _ in fuse(dense, words)]
    if not FILES:
        FILES.update(db.read_blocking(lambda c: {row.id: row.file for row in c.exec_driver_sql("SELECT id, file FROM chunks")}))
    return {kind: list(dict.fromkeys(names[FILES[chunk]] for chunk in found)) for kind, found in (("dense", dense), ("words", words), ("fused", fused))}


FILES: dict[int, str] = {}


def features(searcher: Searcher, store: str, query: str) -> dict[str, float]:
    passages = searcher.search(SearchRequest(tenant="bench", stores=(store,), query=query)).passages
    words = content_words(query)
    sentence_words = [content_words(p.text[h.start - p.start : h.end - p.start]) for p in passages for h in p.highlights]
    share = max(len(words), 1)
    return {
        "similarity": max((p.similarity for p in passages), default=0.0),
        "highlight": max((h.score for p in passages for h in p.highlights), default=0.0),
        "coverage_passage": max((len(words & content_words(p.text)) / share for p in passages[:4]), default=0.0),
        "coverage_sentence": max((len(words & found) / share for found in sentence_words), default=0.0),
    }


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    return sum((p > n) + 0.5 * (p == n) for p in positive for n in negative) / (len(positive) * len(negative))


def report(rows: list[dict[str, Any]]) -> None:
    for name in ("similarity", "highlight", "coverage_passage", "coverage_sentence"):
        own = sorted(row[name] for row in rows if row["kind"] == "own")
        print(f"  {name:18} own p5 {own[len(own) // 20]:.3f} p10 {own[len(own) // 10]:.3f} median {statistics.median(own):.3f}", end="")
        for kind in ("other", "unrelated"):
            off = sorted(row[name] for row in rows if row["kind"] == kind)
            print(f" | {kind} median {statistics.median(off):.3f} p95 {off[int(len(off) * 0.95)]:.3f} max {off[-1]:.3f} AUROC {auroc(own, off):.3f}", end="")
        print()


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=ROOT / "../shared/data/retrieval")
    arguments.add_argument("--collection", choices=("cranfield", "cacm"), action="append")
    arguments.add_argument("--features", type=Path)
    arguments.add_argument("--database", help="a database URL; default: SQLite in a temporary folder")
    chosen = arguments.parse_args()
    if not chosen.data.is_dir():
        sys.exit(f"the collections are not at {chosen.data}")
    embedder = SentenceEmbedder()
    print(f"space {embedder.space}")
    collections = {name: read_collection(chosen.data / name) for name in ("cranfield", "cacm")}
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(chosen.database or f"sqlite:///{folder}/bench.db")
        await asyncio.to_thread(migrate_state, db)
        blobs = FolderBlobs(Path(folder) / "blobs")
        documents, ingestor, searcher = Documents(db, blobs), Ingestor(db, blobs, embedder), Searcher(db, embedder)
        for name in chosen.collection or list(collections):
            corpus, queries, judged = collections[name]
            print(name)
            store, names = await index(documents, ingestor, corpus)
            flat = FlatIndex(db, embedder.space, embedder.dimensions)
            FILES.clear()
            scores: dict[str, list[float]] = defaultdict(list)
            for query, relevant in judged.items():
                for kind, ranking in rankings(db, embedder, flat, store, names, queries[query]).items():
                    scores[kind].append(ndcg(ranking, relevant))
            print("  nDCG@10 " + "  ".join(f"{kind} {statistics.mean(values):.3f}" for kind, values in scores.items()))
            other = next(queries for key, (_, queries, _) in collections.items() if key != name)
            asked = [("own", q) for q in queries.values()] + [("other", q) for q in other.values()] + [("unrelated", q) for q in UNRELATED]
            rows = [{"collection": name, "kind": kind, "query": q, **features(searcher, store, q)} for kind, q in asked]
            lines += [json.dumps(row) for row in rows]
            report(rows)
        await db.aclose()
    if chosen.features:
        chosen.features.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
