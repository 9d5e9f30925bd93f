//! Colours and fonts, light and dark, as style sheets.
//!
//! Pictures use no variables: most programs that draw an SVG file outside a browser do not know them and draw
//! everything black. They also skip the rules for a dark screen, so the light colours apply.

use std::fmt::Write as _;

/// Colours of lines; more lines than that begin again.
pub(super) const COLORS: usize = 8;
/// Steps of a heat map's colour.
pub(super) const HEATS: usize = 8;
/// Kinds of lines of one colour, from one without gaps to the one with most.
pub(super) const DASHES: usize = 4;

/// One set of colours.
struct Theme {
    page: &'static str,
    card: &'static str,
    text: &'static str,
    quiet: &'static str,
    line: &'static str,
    grid: &'static str,
    mark: &'static str,
    colors: [&'static str; COLORS],
    heats: [&'static str; HEATS],
}

const LIGHT: Theme = Theme {
    page: "#f4f5f7",
    card: "#ffffff",
    text: "#16191d",
    quiet: "#5d6673",
    line: "#e1e4e8",
    grid: "#e6e9ed",
    mark: "#c2560c",
    colors: ["#1769c2", "#c2560c", "#0b8074", "#7a4bc4", "#c32f3a", "#7c6a00", "#5d6673", "#b0307c"],
    heats: ["#dfeaf6", "#b4d4ec", "#86b9de", "#5598cb", "#3f70b7", "#4a4a9c", "#55287f", "#2f0a3b"],
};

const DARK: Theme = Theme {
    page: "#0f1216",
    card: "#171b21",
    text: "#e6e9ed",
    quiet: "#96a0ad",
    line: "#262c35",
    grid: "#252b34",
    mark: "#5ff0df",
    colors: ["#5aa9ff", "#ff9a4d", "#3fc7b7", "#b492f5", "#ff7079", "#e0c94a", "#96a0ad", "#f07ac0"],
    heats: ["#22263f", "#3c2f68", "#5e347d", "#8f3580", "#c54872", "#ea6c58", "#fba453", "#fcefa6"],
};

/// What does not depend on colours.
const SHAPES: &str = "\
svg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-size:12px}\
svg .small{font-size:11px}svg .title{font-weight:600;font-size:13px}svg .grid{stroke-width:1}\
svg .curve{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .mark{fill:none;stroke-width:1.5;stroke-linejoin:round}\
svg .d1{stroke-dasharray:8 6}svg .d2{stroke-dasharray:8 5 2 5}svg .d3{stroke-dasharray:2 5}";

/// The style of every picture, for the root of a page or of a picture alone.
pub(super) fn of_pictures() -> String {
    format!("{SHAPES}{}{}", LIGHT.rules(), dark(&DARK.rules()))
}

/// The colours of a page as variables: `--page`, `--card`, `--text`, `--quiet`, `--line`, `--c0` and so on.
/// Pages are for browsers.
pub(super) fn of_pages() -> String {
    format!("{}{}", LIGHT.variables(), dark(&DARK.variables()))
}

fn dark(rules: &str) -> String {
    format!("@media(prefers-color-scheme:dark){{{rules}}}")
}

impl Theme {
    fn rules(&self) -> String {
        let Self { card, text, quiet, grid, mark, colors, heats, .. } = self;
        let mut rules = format!(
            "svg text{{fill:{text}}}svg .quiet{{fill:{quiet}}}svg .ground{{fill:{card}}}\
             svg .grid{{stroke:{grid}}}svg .mark{{stroke:{mark}}}"
        );
        for (index, color) in colors.iter().enumerate() {
            let _ = write!(rules, "svg .s{index}{{stroke:{color}}}svg .f{index}{{fill:{color}}}");
        }
        for (index, heat) in heats.iter().enumerate() {
            let _ = write!(rules, "svg .h{index}{{fill:{heat}}}");
        }
        rules
    }

    fn variables(&self) -> String {
        let Self { page, card, text, quiet, line, colors, .. } = self;
        let mut variables =
            format!(":root{{--page:{page};--card:{card};--text:{text};--quiet:{quiet};--line:{line}");
        for (index, color) in colors.iter().enumerate() {
            let _ = write!(variables, ";--c{index}:{color}");
        }
        variables + "}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_name_no_variables_and_are_light_by_default() {
        let style = of_pictures();
        assert!(!style.contains("var(") && !style.contains("--"), "{style}");
        let (light, dark) = style.split_once("@media").unwrap();
        assert!(light.contains(LIGHT.card) && !light.contains(DARK.card));
        assert!(dark.contains(DARK.card) && !dark.contains(LIGHT.card));
    }
}
