// SPDX-License-Identifier: Apache-2.0
// The bytes to train on: a file, or the C++ standard library's headers of this machine.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

/// 90 % to train on, the last 10 % held out.
struct Corpus {
  std::string name, text;

  std::string_view train() const { return std::string_view(text).substr(0, text.size() / 10 * 9); }
  std::string_view held_out() const { return std::string_view(text).substr(text.size() / 10 * 9); }
};

namespace corpus {

inline std::string read(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What `gzip -dc` makes of a file.
inline std::string unpack(std::filesystem::path const& file) {
  std::string quoted = "'";
  for (char c : file.string()) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(("gzip -dc -- " + quoted + "'").c_str(), "r"), pclose);
  if (!pipe) throw std::runtime_error("cannot run gzip");
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (size_t const n = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) text.append(buffer.data(), n);
  if (pclose(pipe.release()) != 0) throw std::runtime_error("gzip cannot unpack " + file.string());
  return text;
}

/// FASTA without its header lines and line ends; any other text as it is.
inline std::string without_fasta_headers(std::string text) {
  if (text.empty() || (text[0] != '>' && text[0] != ';')) return text;
  std::string sequence;
  for (size_t begin = 0; begin < text.size();) {
    size_t const end = std::min(text.find('\n', begin), text.size());
    if (text[begin] != '>' && text[begin] != ';')
      std::copy_if(text.begin() + std::ptrdiff_t(begin), text.begin() + std::ptrdiff_t(end),
                   std::back_inserter(sequence), [](char c) { return c != '\r'; });
    begin = end + 1;
  }
  return sequence;
}

/// The headers of the newest version under /usr/include/c++, sorted by path.
inline Corpus standard_headers() {
  namespace fs = std::filesystem;
  fs::path const root = "/usr/include/c++";
  fs::path newest;
  double version = -1;
  std::error_code error;
  for (auto const& entry : fs::directory_iterator(root, error)) {
    double const v = std::atof(entry.path().filename().c_str());
    if (entry.is_directory() && v > version) {
      version = v;
      newest = entry.path();
    }
  }
  if (newest.empty()) throw std::runtime_error("no C++ headers under " + root.string() + ": give --data FILE");
  std::vector<fs::path> files;
  for (auto const& entry : fs::recursive_directory_iterator(newest))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Corpus c{newest.string() + ", " + std::to_string(files.size()) + " files", ""};
  for (auto const& file : files) c.text += read(file);
  return c;
}

}  // namespace corpus

/// `file`: raw bytes, or a genome in FASTA, either of them packed by gzip if the name ends in .gz; empty: the standard
/// headers. Throws std::runtime_error with a sentence for the user.
inline Corpus load_corpus(std::string const& file) {
  if (file.empty()) return corpus::standard_headers();
  std::filesystem::path const path(file);
  if (!std::filesystem::is_regular_file(path)) throw std::runtime_error("no such file: " + file);
  return {file, corpus::without_fasta_headers(path.extension() == ".gz" ? corpus::unpack(path) : corpus::read(path))};
}

}  // namespace example
