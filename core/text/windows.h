// The windows of the `gptq` protocol (the one GPTQ-style scripts use): the text is tokenized as one stream, the stream
// is cut into non-overlapping windows of `seq_len` tokens, the tail that does not fill a window is dropped. Each window
// is scored on its own at seq_len - 1 positions: token t is predicted from tokens 0 … t-1 of its window, t ≥ 1.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/text/corpus.h"
#include "core/text/tokenizer.h"

namespace core {

struct WindowOptions {
  int64_t seq_len = 2048;
  std::string bos = "auto";    // none | once | window | auto, see resolve_bos
  int64_t windows = 0;         // at most this many windows, from the start; 0: all
  int64_t embedding_rows = 0;  // rows of the model's embedding: ids at or above are refused; 0: not checked
};

// Token windows of one corpus. Axes: N windows, T = seq_len tokens.
struct Windows {
  std::string corpus;        // name
  std::string bos;           // resolved: none | once | window
  int64_t seq_len = 0;       // T
  int64_t count = 0;         // N
  std::vector<int32_t> ids;  // [N, T], row-major, as the model sees them
  std::string token_hash;    // of ids as little-endian int32: equal hashes, equal input

  std::span<const int32_t> window(int64_t n) const;         // [T]
  int64_t scored() const { return count * (seq_len - 1); }  // positions scored in all windows together
};

// The meaning of `auto` for this tokenizer: `once` if its configuration says add_bos_token, else `none`.
// none: nothing is added. once: one BOS before the text. window: the first token of each window is overwritten by BOS
// (it is never scored). Throws UserError on any other value, and when BOS is wanted but the tokenizer has none.
std::string resolve_bos(const std::string& bos, const Tokenizer& tokenizer);

// Tokenizes and cuts. Throws UserError when the corpus is shorter than one window, when seq_len < 2, or when an id is
// beyond the embedding.
Windows make_windows(const Corpus& corpus, const Tokenizer& tokenizer, const WindowOptions& options);
// The same for a text whose `ids` are known: tokenizer.encode(corpus.text). The text itself is not looked at.
Windows make_windows(const Corpus& corpus, std::vector<int32_t> ids, const Tokenizer& tokenizer,
                     const WindowOptions& options);

// Hash of token ids (as little-endian int32), for results and cache keys.
std::string token_hash(std::span<const int32_t> ids);

}  // namespace core
