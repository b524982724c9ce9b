import torch

from tokfilter.benchmarks.study.evit_baseline import class_attention, prune_tokens


def test_pruning_keeps_the_largest_class_attention_and_fuses_the_rest():
    tokens = torch.arange(6.0)[None, :, None].repeat(1, 1, 2)
    attention = torch.tensor([[0.1, 0.4, 0.1, 0.4, 0.3]])
    found = prune_tokens(tokens, attention, keep=2, prefix_tokens=1)
    fused = (0.1 * 1 + 0.1 * 3 + 0.3 * 5) / 0.5
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.0, 2.0, 4.0, fused]))


def test_class_attention_is_the_first_row_of_the_attention():
    queries, keys = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    whole = (queries @ keys.transpose(-2, -1) / 2).softmax(-1)
    torch.testing.assert_close(class_attention(queries, keys), whole[:, :, 0].mean(1))
