"""Tasks for lm-evaluation-harness: a small set that needs no network, and those that the harness knows by name.

The offline items were written for this package: 20 questions each on common facts, sums and word sense with four choices, and
30 plain sentences. They are easy on purpose, so that a small model is well above chance and damage shows.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from dpg_fast.util.errors import DPGError

CHOICES = ("facts", "arithmetic", "words")
SENTENCES = "sentences"
OFFLINE = (*CHOICES, SENTENCES)
_PREFIX = "dpg_fast_"


def offline_task(name: str) -> dict[str, Any]:
    """A task configuration of the harness for one of :data:`OFFLINE`.

    Raises:
        ValueError: another name.
    """
    if name not in OFFLINE:
        raise DPGError(f"unknown offline task {name!r}; accepted: {', '.join(OFFLINE)}")
    file = resources.files("dpg_fast").joinpath("assets", "capability", f"{name}.jsonl")
    task: dict[str, Any] = {
        "task": _PREFIX + name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "num_fewshot": 0,
    }
    if name == SENTENCES:
        return task | {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
            ],
        }
    return task | {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def named_task(name: str, manager: Any) -> str:
    """``name`` if the harness knows it and its data can be loaded.

    Args:
        name: of a task or group of the harness ("gsm8k", "mmlu").
        manager: an ``lm_eval.tasks.TaskManager``.

    Raises:
        ValueError: it knows no such task, or the data is not at hand and cannot be fetched.
    """
    if name not in manager.all_tasks:
        raise DPGError(
            f"unknown task {name!r}; accepted: {', '.join(OFFLINE)}, and what `lm-eval ls tasks` lists (needs the network)"
        )
    from lm_eval.tasks import get_task_dict

    try:
        get_task_dict([name], manager)
    except Exception as error:  # datasets, the Hub's client and the tasks themselves raise errors of many kinds
        raise DPGError(
            f"the data of {name} could not be loaded ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]}). "
            f"The harness fetches it from the Hugging Face Hub: connect to the network, or stay with {', '.join(OFFLINE)}"
        ) from error
    return name
