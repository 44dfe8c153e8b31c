// SPDX-License-Identifier: Apache-2.0
// A small writer of line and bar plots as SVG files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace example {

/// One axis of a plot. Ticks are chosen to be round numbers.
struct Axis {
  std::string label;
  bool log = false;        ///< logarithmic; values <= 0 are left out
  int base = 10;           ///< of a logarithmic axis: 2 or 10
  bool bytes = false;      ///< ticks as KiB, MiB, GiB instead of K, M, G
  bool from_zero = false;  ///< a linear axis starts at 0 even if no value is near it
};

/// How a line is drawn.
struct LineStyle {
  bool dashed = false;   ///< for references and expectations
  bool markers = false;  ///< a dot at every point
};

/// Lines over numbers, or groups of bars over categories:
///   Plot("Loss", {.label = "step"}, {.label = "bits per byte"}).line("train", points).write("loss.svg");
class Plot {
 public:
  using Points = std::vector<std::pair<double, double>>;

  Plot(std::string title, Axis x, Axis y) : title_(std::move(title)), x_(std::move(x)), y_(std::move(y)) {}

  Plot& line(std::string name, Points points, LineStyle style = {}) {
    lines_.push_back({std::move(name), std::move(points), style});
    return *this;
  }
  /// The groups of a bar plot, left to right.
  Plot& categories(std::vector<std::string> names) {
    categories_ = std::move(names);
    return *this;
  }
  /// One bar per category; several series stand side by side.
  Plot& bars(std::string name, std::vector<double> heights) {
    bars_.push_back({std::move(name), std::move(heights)});
    return *this;
  }
  /// A remark below the plot: the machine, the settings.
  Plot& note(std::string text) {
    note_ = std::move(text);
    return *this;
  }

  /// Throws std::runtime_error if the file cannot be written.
  void write(std::string const& path) const {
    std::ofstream file(path);
    file << text();
    file.close();
    if (!file) throw std::runtime_error("cannot write " + path);
  }

  std::string text() const {
    Canvas c;
    size_t longest = 0;
    for (std::string const& name : names()) longest = std::max(longest, name.size());
    c.right = names().size() > 1 ? width - 58 - 6.9 * double(longest) : width - 30;
    c.x = x_range();
    c.y = y_range();
    c.out =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"440\" viewBox=\"0 0 720 440\" "
        "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\n"
        "<rect width=\"720\" height=\"440\" fill=\"white\"/>\n";
    c.write(c.left, 28, title_, "font-size=\"15\" font-weight=\"bold\"");
    draw_axes(c);
    if (!bars_.empty()) draw_bars(c);
    for (size_t i = 0; i < lines_.size(); ++i) draw_line(c, lines_[i], colour(bars_.size() + i));
    draw_legend(c);
    if (!note_.empty()) c.write(c.left, 430, note_, "font-size=\"10.5\" fill=\"#777\"");
    return c.out + "</svg>\n";
  }

 private:
  struct Line {
    std::string name;
    Points points;
    LineStyle style;
  };
  struct Bars {
    std::string name;
    std::vector<double> heights;
  };
  /// The ends of an axis, in the values' units, and its ticks.
  struct Range {
    double low = 0, high = 1;
    bool log = false;
    std::vector<double> ticks;

    double place(double v) const {  // 0 at the low end, 1 at the high end
      return log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    }
  };

  static constexpr double width = 720;

  struct Canvas {
    double left = 84, right = 690, top = 48, bottom = 366;
    Range x, y;
    std::string out;

    double px(double v) const { return left + x.place(v) * (right - left); }
    double py(double v) const { return bottom - y.place(v) * (bottom - top); }
    void write(double at_x, double at_y, std::string const& text, std::string const& style) {
      add("<text x=\"%.1f\" y=\"%.1f\" ", at_x, at_y);
      out += style + ">" + escaped(text) + "</text>\n";
    }
    void stroke(double x0, double y0, double x1, double y1, char const* style) {
      add("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" ", x0, y0, x1, y1);
      out += std::string(style) + "/>\n";
    }
    template <class... Args> void add(char const* format, Args... args) {
      char buffer[256];
      std::snprintf(buffer, sizeof buffer, format, args...);
      out += buffer;
    }
  };

  static std::string escaped(std::string const& text) {
    std::string s;
    for (char ch : text) {
      if (ch == '<')
        s += "&lt;";
      else if (ch == '>')
        s += "&gt;";
      else if (ch == '&')
        s += "&amp;";
      else
        s += ch;
    }
    return s;
  }

  /// Told apart by readers with colour-blindness too (Okabe and Ito's set, reordered).
  static std::string colour(size_t i) {
    static char const* const palette[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"};
    return palette[i % (sizeof palette / sizeof palette[0])];
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (Bars const& b : bars_) all.push_back(b.name);
    for (Line const& l : lines_) all.push_back(l.name);
    return all;
  }

  Range x_range() const {
    if (!categories_.empty()) return {-0.5, double(categories_.size()) - 0.5, false, {}};
    std::vector<double> values;
    for (Line const& l : lines_)
      for (auto const& p : l.points) values.push_back(p.first);
    return range(x_, values, 9, false);
  }
  Range y_range() const {
    std::vector<double> values;
    for (Line const& l : lines_)
      for (auto const& p : l.points) values.push_back(p.second);
    for (Bars const& b : bars_) values.insert(values.end(), b.heights.begin(), b.heights.end());
    Axis axis = y_;
    axis.from_zero = axis.from_zero || !bars_.empty();
    return range(axis, values, 6, true);
  }

  static Range range(Axis const& axis, std::vector<double> const& values, int wanted, bool widen) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (double v : values) {
      if (!std::isfinite(v) || (axis.log && v <= 0)) continue;
      low = std::min(low, v);
      high = std::max(high, v);
    }
    if (low > high) low = high = 1;
    return axis.log ? log_range(low, high, axis.base, wanted, widen) : linear_range(axis, low, high, wanted, widen);
  }

  static Range linear_range(Axis const& axis, double low, double high, int wanted, bool widen) {
    if (axis.from_zero) low = std::min(low, 0.0), high = std::max(high, 0.0);
    if (low == high) low -= 0.5, high += 0.5;
    double const rough = (high - low) / wanted;
    double const unit = std::pow(axis.bytes ? 2.0 : 10.0, std::floor(std::log(rough) / std::log(axis.bytes ? 2 : 10)));
    double step = unit;
    for (double m : {1.0, 2.0, 5.0, 10.0})
      if (step < rough) step = m * unit;
    if (widen) low = std::floor(low / step + 1e-9) * step, high = std::ceil(high / step - 1e-9) * step;
    Range r{low, high, false, {}};
    for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) r.ticks.push_back(i * step);
    return r;
  }

  static Range log_range(double low, double high, double base, int wanted, bool widen) {
    auto const power = [base](double v) { return std::log(v) / std::log(base); };
    if (low == high) low /= base, high *= base;
    double first = std::floor(power(low) + 1e-9), last = std::ceil(power(high) - 1e-9);
    bool const fine = base == 10 && last - first <= 2;  // 1, 2, 5 between the decades
    if (widen) {
      double const lower = std::pow(base, first), upper = std::pow(base, last);
      low = fine ? lower * (low >= 5 * lower ? 5 : low >= 2 * lower ? 2 : 1) : lower;
      high = fine ? upper / (high <= upper / 5 ? 5 : high <= upper / 2 ? 2 : 1) : upper;
    }
    Range r{low, high, true, {}};
    double const stride = std::max(1.0, std::ceil((last - first) / (wanted + 2)));
    for (double e = first; e <= last; e += stride)
      for (double m : {1.0, 2.0, 5.0}) {
        double const tick = m * std::pow(base, e);
        if ((m == 1 || fine) && tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) r.ticks.push_back(tick);
      }
    return r;
  }

  static std::string tick_label(double v, Axis const& axis) {
    static char const* const decimal[] = {"", "K", "M", "G", "T", "P"};
    static char const* const binary[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
    bool const power_of_two = axis.bytes || (axis.log && axis.base == 2);
    double const unit = power_of_two ? 1024 : 1000;
    int i = 0;
    double scaled = v;
    for (; i < 5 && std::abs(scaled) >= unit * (1 - 1e-9); ++i) scaled /= unit;
    char buffer[48];
    std::snprintf(buffer, sizeof buffer, "%.4g%s", std::abs(scaled) < 1e-12 ? 0.0 : scaled,
                  (axis.bytes ? binary : decimal)[i]);
    return buffer;
  }

  void draw_axes(Canvas& c) const {
    for (double tick : c.y.ticks) {
      c.stroke(c.left, c.py(tick), c.right, c.py(tick), "stroke=\"#e4e4e4\"");
      c.write(c.left - 8, c.py(tick) + 4, tick_label(tick, y_), "text-anchor=\"end\"");
    }
    for (double tick : c.x.ticks) {
      c.stroke(c.px(tick), c.bottom, c.px(tick), c.bottom + 4, "stroke=\"#333\"");
      c.write(c.px(tick), c.bottom + 18, tick_label(tick, x_), "text-anchor=\"middle\"");
    }
    for (size_t i = 0; i < categories_.size(); ++i)
      c.write(c.px(double(i)), c.bottom + 18, categories_[i], "text-anchor=\"middle\"");
    c.stroke(c.left, c.bottom, c.right, c.bottom, "stroke=\"#333\"");
    c.write((c.left + c.right) / 2, c.bottom + 40, x_.label, "text-anchor=\"middle\"");
    c.add("<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\">", (c.top + c.bottom) / 2);
    c.out += escaped(y_.label) + "</text>\n";
  }

  void draw_line(Canvas& c, Line const& line, std::string const& paint) const {
    c.out += "<path fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\" stroke=\"" + paint + "\"";
    if (line.style.dashed) c.out += " stroke-dasharray=\"6 4\"";
    c.out += " d=\"";
    bool pen_down = false;
    for (auto const& [x, y] : line.points) {
      pen_down = drawable(x, y) && (c.add(pen_down ? "L%.1f %.1f" : "M%.1f %.1f", c.px(x), c.py(y)), true);
    }
    c.out += "\"/>\n";
    if (!line.style.markers) return;
    for (auto const& [x, y] : line.points) {
      if (!drawable(x, y)) continue;
      c.add("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" ", c.px(x), c.py(y));
      c.out += "fill=\"" + paint + "\"/>\n";
    }
  }
  bool drawable(double x, double y) const {
    return std::isfinite(x) && std::isfinite(y) && (!x_.log || x > 0) && (!y_.log || y > 0);
  }

  void draw_bars(Canvas& c) const {
    double const slot = 0.76 / double(bars_.size());
    double const floor = y_.log ? c.y.low : 0;
    for (size_t s = 0; s < bars_.size(); ++s)
      for (size_t i = 0; i < bars_[s].heights.size() && i < categories_.size(); ++i) {
        double const h = bars_[s].heights[i], begin = double(i) - 0.38 + slot * double(s);
        if (!drawable(1, h)) continue;
        double const upper = c.py(std::max(h, floor)), lower = c.py(std::min(h, floor));
        c.add("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" ", c.px(begin), upper,
              0.94 * (c.px(begin + slot) - c.px(begin)), lower - upper);
        c.out += "fill=\"" + colour(s) + "\"/>\n";
      }
  }

  void draw_legend(Canvas& c) const {
    auto const all = names();
    if (all.size() < 2) return;
    double y = c.top + 8;
    for (size_t i = 0; i < all.size(); ++i, y += 20) {
      bool const bar = i < bars_.size();
      bool const dashed = !bar && lines_[i - bars_.size()].style.dashed;
      std::string style = "stroke-width=\"" + std::string(bar ? "10" : "2.5") + "\" stroke=\"" + colour(i) + "\"";
      if (dashed) style += " stroke-dasharray=\"5 3\"";
      c.stroke(c.right + 16, y, c.right + 36, y, style.c_str());
      c.write(c.right + 42, y + 4, all[i], "");
    }
  }

  std::string title_, note_;
  Axis x_, y_;
  std::vector<Line> lines_;
  std::vector<std::string> categories_;
  std::vector<Bars> bars_;
};

}  // namespace example
