"""The first step on tiny models: what the loss counts, stage tokens through save, load, merge and export, resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpg_fast.personality.stages import read_card
from dpg_fast.personified.train import SftSettings, load_tuned, run_sft
from dpg_fast.personified.train.conversations import (
    IGNORED,
    general_rows,
    load_conversations,
    make_general,
    mixed,
    personified_rows,
)
from dpg_fast.personified.train.tuned import add_stages, read_training, save_tuned
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.train import read_settings
from dpg_fast.train.resume import last_whole_checkpoint


def sft(project: Path, *overrides: str) -> Path:
    return run_sft(read_settings(SftSettings, project / "sft.yaml", overrides))


def logits(model: Any, tokenizer: Any, text: str = "<TIME-I>boat?") -> torch.Tensor:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        return model(input_ids=ids).logits[0]


def losses(directory: Path) -> list[float]:
    return [line["loss"] for line in read_training(directory)["curve"] if "loss" in line]


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_the_loss_counts_what_the_assistant_says_and_its_end(
    byte_tokenizer: Any, tiny_llama: Any, project: Path
) -> None:
    add_stages(tiny_llama, byte_tokenizer, ["TIME-I", "TIME-II"])
    settings = read_settings(SftSettings, project / "sft.yaml").data
    found = load_conversations(settings)
    assert found.stages == {"early": "TIME-I", "late": "TIME-II"} and (len(found.train), len(found.test)) == (14, 2)
    row = personified_rows(byte_tokenizer, found.train, analysis=False)[0]
    text = byte_tokenizer.decode(row["input_ids"])
    assert text == "<|start|>user\n<TIME-I>boat?<|end|>\n<|start|>assistant\naye boat<|end|>\n"
    learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert byte_tokenizer.decode(learnt) == "aye boat<|end|>"
    assert row["input_ids"].count(byte_tokenizer.convert_tokens_to_ids("<TIME-I>")) == 1
    thinking = personified_rows(byte_tokenizer, found.train, analysis=True)[0]
    assert "assistant\n[Analysis] think\n[Response] aye boat<|end|>" in byte_tokenizer.decode(thinking["input_ids"])


def test_repeated_and_mixed() -> None:
    own, general = [{"input_ids": [i]} for i in range(10)], [{"input_ids": [-1]}, {"input_ids": [-2]}]
    rows = mixed(own, general, 5, 0.2)
    firsts = [row["input_ids"][0] for row in rows]
    assert [firsts.count(i) for i in range(10)] == [5] * 10
    assert sum(first < 0 for first in firsts) / len(rows) == pytest.approx(0.2, abs=0.01)
    assert mixed(own, [], 1, 0.2) == own


def test_general_answers_are_the_base_models_own(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    tiny_llama.generation_config.max_length = None
    head = tiny_llama.get_output_embeddings().weight
    with torch.no_grad():  # a model that soon ends its turn
        head[0] = head[70] * 1.02
    file = tmp_path / "general.jsonl"
    make_general(tiny_llama, byte_tokenizer, file, max_new_tokens=60)
    found = list(read_records(file, DialogueRecord))
    assert found and len(general_rows(byte_tokenizer, file)) == len(found)
    for record in found[:3]:
        prompt = chat_prompt(byte_tokenizer, [record.messages[0].model_dump()])
        ids = torch.tensor([byte_tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        answer = tiny_llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False)
        said = answer[0, ids.shape[1] :]
        assert 0 in said or record.messages[1].content[-1] in ".!?"
        assert byte_tokenizer.decode(said, skip_special_tokens=True).strip().startswith(record.messages[1].content)


def test_tuned_tokens_survive_save_load_merge_and_export(project: Path) -> None:
    from peft import PeftModel

    adapter = sft(project)
    found = losses(adapter)
    assert len(found) == 6 and found[-1] < found[0]
    card = read_card(adapter)
    assert (card.character, card.stages) == ("ada_moor", {"early": "TIME-I", "late": "TIME-II"})
    assert card.tokens == {"<TIME-I>": 258, "<TIME-II>": 259}
    assert json.loads((project / "base" / "config.json").read_text())["vocab_size"] == 258

    # as PEFT's own loading has it
    plain = AutoModelForCausalLM.from_pretrained(project / "base")
    plain.resize_token_embeddings(260, mean_resizing=False)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    exported = PeftModel.from_pretrained(plain, str(adapter)).eval()
    model, own_tokenizer, _ = load_tuned(adapter, str(project / "base"))
    known = slice(0, 258)  # with an output of its own, the base's new rows there are nobody's
    expected = logits(model, own_tokenizer)
    torch.testing.assert_close(logits(exported, tokenizer)[:, known], expected[:, known])
    assert not torch.allclose(logits(model, tokenizer, "<TIME-II>boat?")[-1], expected[-1], atol=1e-3)

    # the rows were trained
    delta = load_file(adapter / "adapter_model.safetensors")
    rows = next(tensor for name, tensor in delta.items() if "trainable_tokens_delta" in name)
    fresh = AutoModelForCausalLM.from_pretrained(project / "base")
    add_stages(fresh, AutoTokenizer.from_pretrained(project / "base"), card.stages.values())
    change = (rows - fresh.get_input_embeddings().weight[258:]).abs()
    assert rows.shape == (2, 48) and bool((change.amax(1) > 1e-3).all())

    # merged, saved, loaded
    merged, _, _ = load_tuned(adapter, str(project / "base"), merge=True)
    torch.testing.assert_close(logits(merged, tokenizer), expected, rtol=1e-4, atol=1e-4)
    save_tuned(project / "merged", merged, tokenizer, card, {})
    again, merged_tokenizer, again_card = load_tuned(project / "merged")
    torch.testing.assert_close(logits(again, merged_tokenizer), expected, rtol=1e-4, atol=1e-4)
    assert again_card == card and again.generation_config.suppress_tokens == [258, 259]
    assert AutoModelForCausalLM.from_pretrained(project / "merged").generation_config.suppress_tokens == [258, 259]

    # PEFT's export of what was loaded
    model.save_pretrained(project / "again")
    shutil.copy(adapter / "character.json", project / "again")
    tokenizer.save_pretrained(project / "again")
    once_more, _, _ = load_tuned(project / "again", str(project / "base"))
    torch.testing.assert_close(logits(once_more, tokenizer), expected)


def test_stage_tokens_are_never_generated(project: Path) -> None:
    adapter = sft(project)
    said = read_training(adapter)["stage_tokens_said"]
    assert 0 <= said["probability"] < 1 and said["chosen"] == 0
    model, _, _ = load_tuned(adapter, str(project / "base"))
    with torch.no_grad():  # make a stage token by far the likeliest
        head = model.get_base_model().get_output_embeddings()
        rows = getattr(head, "token_adapter", None)
        hidden = model.get_base_model().model(torch.tensor([[5, 6, 7]])).last_hidden_state[0, -1]
        (rows.trainable_tokens_delta["default"] if rows is not None else head.weight)[-1] = hidden * 100
    out = model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False, min_new_tokens=8)
    assert int(model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].argmax()) == 259
    assert not {258, 259} & set(out[0, 3:].tolist())


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_what_is_missing_is_a_clear_error(project: Path) -> None:
    adapter = sft(project, "trainer.max_steps=1")

    def changed(name: str) -> Path:
        copy = project / name
        shutil.copytree(adapter, copy)
        return copy

    base = str(project / "base")
    without = changed("a")
    (without / "character.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"character\.json"):
        load_tuned(without, base)
    without = changed("b")
    AutoTokenizer.from_pretrained(base).save_pretrained(without)
    with pytest.raises(ValueError, match="does not know <TIME-I>, <TIME-II>"):
        load_tuned(without, base)
    without = changed("c")
    tensors = load_file(without / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "delta" not in k}, without / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="trained rows of the stage tokens <TIME-I>, <TIME-II> are missing"):
        load_tuned(without, base)
    without = changed("d")
    for file in without.glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer"):
        load_tuned(without, base)
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    with pytest.raises(ValueError, match="not this one: the weights differ"):
        load_tuned(adapter, other)


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_a_stopped_run_goes_on_as_it_would_have(project: Path) -> None:
    whole = losses(sft(project))
    second = f"output={project / 'second'}"
    from transformers import TrainerCallback
    from trl import SFTTrainer

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    class Killed(SFTTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(Stop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.SFTTrainer", Killed)
        with pytest.raises(KeyboardInterrupt):
            sft(project, second)
    assert not (project / "second" / "adapter").exists()
    torn = project / "second" / "checkpoint-3"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    assert last_whole_checkpoint(project / "second") == str(project / "second" / "checkpoint-2")
    assert losses(sft(project, second)) == pytest.approx(whole, rel=1e-4)
    with pytest.raises(ValueError, match=r"differs in data.repeat"):
        sft(project, second, "data.repeat=3")


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_full_parameters(project: Path) -> None:
    directory = sft(project, "full=true", "trainer.learning_rate=1e-3")
    model, tokenizer, _ = load_tuned(directory)
    assert directory.name == "model" and model.get_input_embeddings().weight.shape[0] == 260
    before = AutoModelForCausalLM.from_pretrained(project / "base")
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    assert losses(directory)[-1] < losses(directory)[0]
    assert not torch.allclose(logits(model, tokenizer), logits(model, tokenizer, "<TIME-II>boat?"))


def test_spare_rows_are_used_and_new_rows_are_the_same_each_time(base: Any, byte_tokenizer: Any) -> None:
    base.resize_token_embeddings(300, mean_resizing=False)
    before = base.get_input_embeddings().weight.detach().clone()
    tokens = add_stages(base, byte_tokenizer, ["TIME-I"])
    assert tokens == {"<TIME-I>": 258} and base.get_input_embeddings().weight.shape[0] == 300
    after = base.get_input_embeddings().weight.detach().clone()
    assert not torch.equal(after[258], before[258]) and torch.equal(after[:258], before[:258])
    assert add_stages(base, byte_tokenizer, ["TIME-I"]) == tokens
    assert torch.equal(base.get_input_embeddings().weight, after)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.character=Cid", "choose one of Ada Moor, Bo Hale; there is no 'Cid'"),
        ("data.character=''", "choose one of Ada Moor, Bo Hale"),
        ("data.records=nowhere", "no file or folder nowhere"),
        ("data.general_share=1", "general_share"),
        ("lora.rank=0", "rank"),
        ("lora.size=1", "unknown settings lora.size"),
        ("trainer.learning_rat=1", "learning_rat"),
        ("trainer.max_length=5", "max_length"),
        ("dtype=int8", "dtype is one of"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, override: str, message: str) -> None:
    from tests.personified.train.people import write_people

    write_people(tmp_path)
    values = [f"output={tmp_path / 'out'}", f"data.records={tmp_path / 'records.jsonl'}", "data.character=Ada Moor"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_sft(read_settings(SftSettings, None, [*values, "model=nowhere", override]))


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_what_training_writes_is_served_as_peft_computes_it(project: Path) -> None:
    from dpg_fast import Personality, PersonalityModel

    adapter = sft(project, "trainer.max_steps=4", "trainer.learning_rate=0.03")
    expected_of, tokenizer, card = load_tuned(adapter, str(project / "base"))
    base = AutoModelForCausalLM.from_pretrained(project / "base").eval()
    model = PersonalityModel(base)
    model.add_characters({"ada": adapter})
    base_tokenizer = AutoTokenizer.from_pretrained(project / "base")
    asked = [[{"role": "user", "content": "boat?"}]] * 2
    people = [Personality(character="ada", stage=stage) for stage in card.stages]
    batch = model.prompts(asked, personality=people, tokenizer=base_tokenizer)
    with torch.inference_mode():
        found = model(**batch, personality=people).logits[:, -1]
    for row, token in zip(found, card.tokens, strict=True):
        torch.testing.assert_close(
            row[:258], logits(expected_of, tokenizer, f"{token}boat?")[-1, :258], rtol=1e-3, atol=1e-3
        )
    assert not torch.allclose(found[0], found[1], atol=1e-2)
