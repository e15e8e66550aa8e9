// How the rows of a data set's file become the one text that a published measurement tokenizes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace core {

struct Join {
  // none: the file is the text.
  // rows: WikiText's original layout, one row a line; rows are joined with blank lines.
  // lines: one sentence a line, joined with spaces without the blanks around them (PTB "new").
  // documents: JSON lines; the field `text` of each line, joined with spaces (C4 "new").
  std::string kind = "none";
  int64_t documents = 0;  // of `documents`: this many from the start, no fewer; 0: all

  std::string text() const;  // "rows", "documents 1100"
};

const std::vector<std::string>& join_kinds();

// `path` is the file's name in messages. Throws UserError when a line is not a document, or documents are missing.
std::string join(std::string file, const Join& how, const std::string& path);

}  // namespace core
