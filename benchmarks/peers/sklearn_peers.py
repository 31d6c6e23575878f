"""scikit-learn's TF-IDF: the texts nearest to the mean of the history's texts."""

from typing import Final

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, binary_matrix, by_search, grid

_GRAMS: Final = {"char": (3, 3), "char_wb": (2, 4), "word": (1, 1)}


def fit_tfidf(data: FitData, settings: Settings) -> Scorer:
    """Fitted on the texts alone; no behaviour but the request's own history comes in."""
    analyzer, last = settings["analyzer"], settings["last"]
    vectorizer = TfidfVectorizer(
        analyzer=analyzer, ngram_range=_GRAMS[analyzer], sublinear_tf=True, min_df=2, dtype=np.float32
    )
    vectors = vectorizer.fit_transform(item["text"] for item in data.items)

    def score(requests: Requests) -> Float32:
        histories = [requests.history[row][-last:] for row in range(len(requests))]
        owner = np.repeat(np.arange(len(requests)), [len(history) for history in histories])
        chosen = binary_matrix(owner, np.concatenate(histories), (len(requests), data.n_items))
        return ((chosen @ vectors) @ vectors.T).toarray()

    return score


RUNS: Final[dict[str, Run]] = {
    "sklearn-tfidf": by_search(fit_tfidf, grid(analyzer=("char", "char_wb", "word"), last=(5, 20, 1000))),
}
