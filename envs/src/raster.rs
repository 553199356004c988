//! Paints scenes on the CPU: PNG pictures and GIF films, the same at thumbnail and at full size.

use std::collections::HashMap;

use tiny_skia::{Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

use crate::scene::{Ink, Point, Scene, Shape};

/// A colour, red green blue alpha.
pub type Rgba = [u8; 4];

/// Colours of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Palette {
    /// Behind everything.
    pub background: Rgba,
    /// The clip that is shown first; used for nothing else.
    pub first: Rgba,
    /// The clip that is shown second; used for nothing else.
    pub second: Rgba,
    /// Rail, hill, outlines.
    pub ground: Rgba,
    /// The body.
    pub body: Rgba,
    /// Its lighter part.
    pub body_light: Rgba,
    /// Joints and wheels.
    pub joint: Rgba,
    /// Where to go.
    pub target: Rgba,
    /// The action.
    pub action: Rgba,
    /// The path so far.
    pub trail: Rgba,
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// `[height, width, 4]`, opaque.
    pub rgba: Vec<u8>,
}

/// A picture that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RasterError {
    /// No such size.
    #[error("a picture of {width} × {height} pixels cannot be made: both must be between 1 and {MAX_SIDE}")]
    Size {
        /// Width asked for.
        width: u32,
        /// Height asked for.
        height: u32,
    },
    /// A film without pictures, or with pictures of several sizes.
    #[error("a film needs at least one picture, all of one size")]
    Frames,
    /// The encoder failed.
    #[error("cannot encode the picture: {0}")]
    Encode(String),
}

/// Longest side of a picture, pixels.
pub const MAX_SIDE: u32 = 8192;

impl Default for Palette {
    /// Calm and light; only the moving body is loud.
    fn default() -> Self {
        Self {
            background: [250, 250, 248, 255],
            first: [47, 111, 222, 255],
            second: [232, 131, 58, 255],
            ground: [205, 208, 212, 255],
            body: [44, 52, 68, 255],
            body_light: [112, 124, 145, 255],
            joint: [232, 234, 238, 255],
            target: [31, 157, 120, 255],
            action: [150, 110, 190, 150],
            trail: [44, 52, 68, 90],
        }
    }
}

impl Palette {
    fn of(&self, ink: Ink) -> Rgba {
        match ink {
            Ink::Ground => self.ground,
            Ink::Body => self.body,
            Ink::BodyLight => self.body_light,
            Ink::Joint => self.joint,
            Ink::Target => self.target,
            Ink::Action => self.action,
            Ink::Trail => self.trail,
        }
    }
}

/// Paints a scene, with the path that its tracked point has taken, oldest first. The view keeps its proportions; what
/// is left of the picture shows the background.
///
/// # Errors
/// [`RasterError::Size`] for an impossible size.
pub fn render(
    scene: &Scene,
    trail: &[Point],
    width: u32,
    height: u32,
    palette: &Palette,
) -> Result<Frame, RasterError> {
    let mut pixmap = new_pixmap(width, height, palette.background)?;
    let [w, h] = [0, 1].map(|i| (scene.max[i] - scene.min[i]).max(1e-6));
    let scale = (width as f32 / w).min(height as f32 / h);
    // World to pixels: y points up in the world and down in the picture; the view is centred.
    let to_pixels = Transform::from_row(
        scale,
        0.0,
        0.0,
        -scale,
        (width as f32 - w * scale) / 2.0 - scene.min[0] * scale,
        (height as f32 + h * scale) / 2.0 + scene.min[1] * scale,
    );
    for (i, pair) in trail.windows(2).enumerate() {
        // Fades into the background by mixing, not by transparency: round ends that overlap would show as dots.
        let strength = f32::from(palette.trail[3]) / 255.0 * (i + 1) as f32 / trail.len() as f32;
        let mix =
            |c: usize| f32::from(palette.background[c]) * (1.0 - strength) + f32::from(palette.trail[c]) * strength;
        let color = [mix(0) as u8, mix(1) as u8, mix(2) as u8, 255];
        stroke(&mut pixmap, pair, 0.012 * w / 2.0, color, to_pixels);
    }
    for shape in &scene.shapes {
        paint(&mut pixmap, shape, palette, to_pixels, 0.6 / scale);
    }
    Ok(Frame { width, height, rgba: pixmap.take() })
}

/// Puts two pictures side by side, the first under a blue bar and the second under an orange one.
///
/// # Errors
/// [`RasterError`] when their sizes differ or the result would be too large.
pub fn side_by_side(first: &Frame, second: &Frame, palette: &Palette) -> Result<Frame, RasterError> {
    if (first.width, first.height) != (second.width, second.height) {
        return Err(RasterError::Frames);
    }
    let (gap, bar) = ((first.width / 24).max(2), (first.height / 40).max(2));
    let (width, height) = (first.width * 2 + gap, first.height + bar);
    let mut pixmap = new_pixmap(width, height, palette.background)?;
    for (frame, x, color) in [(first, 0, palette.first), (second, first.width + gap, palette.second)] {
        let rect = Rect::from_xywh(x as f32, 0.0, frame.width as f32, bar as f32);
        let rect = rect.ok_or(RasterError::Size { width, height })?;
        pixmap.fill_rect(rect, &paint_of(color), Transform::identity(), None);
        for row in 0..frame.height {
            let to = 4 * ((row + bar) * width + x) as usize;
            let from = 4 * (row * frame.width) as usize;
            let len = 4 * frame.width as usize;
            pixmap.data_mut()[to..to + len].copy_from_slice(&frame.rgba[from..from + len]);
        }
    }
    Ok(Frame { width, height, rgba: pixmap.take() })
}

/// Encodes a picture as PNG.
///
/// # Errors
/// [`RasterError`] when the picture's size and data do not fit.
pub fn png(frame: &Frame) -> Result<Vec<u8>, RasterError> {
    let mut pixmap = new_pixmap(frame.width, frame.height, [0; 4])?;
    if pixmap.data().len() != frame.rgba.len() {
        return Err(RasterError::Frames);
    }
    pixmap.data_mut().copy_from_slice(&frame.rgba);
    pixmap.encode_png().map_err(|e| RasterError::Encode(e.to_string()))
}

/// Encodes pictures as a GIF that loops for ever. All share one palette of the colours used most, and each stores
/// only the rows and columns that changed.
///
/// # Errors
/// [`RasterError`] without pictures, or when their sizes differ.
pub fn gif(frames: &[Frame], delay_centiseconds: u16) -> Result<Vec<u8>, RasterError> {
    let first = frames.first().ok_or(RasterError::Frames)?;
    let size =
        |side: u32| u16::try_from(side).map_err(|_| RasterError::Size { width: first.width, height: first.height });
    let (width, height) = (size(first.width)?, size(first.height)?);
    if frames.iter().any(|f| (f.width, f.height) != (first.width, first.height)) {
        return Err(RasterError::Frames);
    }
    let (palette, index_of) = shared_palette(frames);
    let encode = |e: gif::EncodingError| RasterError::Encode(e.to_string());
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &palette).map_err(encode)?;
    encoder.set_repeat(gif::Repeat::Infinite).map_err(encode)?;
    let mut shown: Vec<u8> = Vec::new();
    for frame in frames {
        let indices: Vec<u8> = frame.rgba.chunks_exact(4).map(|p| index_of[&[p[0], p[1], p[2]]]).collect();
        let (left, top, w, h) = changed(&shown, &indices, usize::from(width), usize::from(height));
        let rows = (top..top + h).flat_map(|y| &indices[y * usize::from(width)..][left..left + w]);
        let narrow = |value: usize| u16::try_from(value).expect("a part of a picture is no larger than the picture");
        encoder
            .write_frame(&gif::Frame {
                delay: delay_centiseconds,
                left: narrow(left),
                top: narrow(top),
                width: narrow(w),
                height: narrow(h),
                buffer: rows.copied().collect::<Vec<u8>>().into(),
                ..gif::Frame::default()
            })
            .map_err(encode)?;
        shown = indices;
    }
    drop(encoder);
    Ok(bytes)
}

fn new_pixmap(width: u32, height: u32, background: Rgba) -> Result<Pixmap, RasterError> {
    let size = RasterError::Size { width, height };
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(size);
    }
    let mut pixmap = Pixmap::new(width, height).ok_or(size)?;
    let [r, g, b, a] = background;
    pixmap.fill(Color::from_rgba8(r, g, b, a));
    Ok(pixmap)
}

fn paint_of([r, g, b, a]: Rgba) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, a);
    paint.anti_alias = true;
    paint
}

fn paint(pixmap: &mut Pixmap, shape: &Shape, palette: &Palette, to_pixels: Transform, least_radius: f32) {
    match shape {
        Shape::Circle { center, radius, ink } => {
            if let Some(path) = PathBuilder::from_circle(center[0], center[1], radius.max(least_radius)) {
                pixmap.fill_path(&path, &paint_of(palette.of(*ink)), FillRule::Winding, to_pixels, None);
            }
        }
        // Thin lines keep a visible width in thumbnails.
        Shape::Capsule { from, to, radius, ink } => {
            stroke(pixmap, &[*from, *to], radius.max(least_radius), palette.of(*ink), to_pixels);
        }
        Shape::Polyline { points, radius, ink } => {
            stroke(pixmap, points, radius.max(least_radius), palette.of(*ink), to_pixels);
        }
        Shape::Area { surface, bottom, ink } => {
            let (Some(first), Some(last)) = (surface.first(), surface.last()) else { return };
            let outline = [surface.as_slice(), &[[last[0], *bottom], [first[0], *bottom]]].concat();
            if let Some(path) = rounded(&outline, 0.0) {
                pixmap.fill_path(&path, &paint_of(palette.of(*ink)), FillRule::Winding, to_pixels, None);
            }
        }
        Shape::Polygon { points, rounding, ink } => {
            if let Some(path) = rounded(points, *rounding) {
                pixmap.fill_path(&path, &paint_of(palette.of(*ink)), FillRule::Winding, to_pixels, None);
            }
        }
    }
}

fn stroke(pixmap: &mut Pixmap, points: &[Point], radius: f32, color: Rgba, to_pixels: Transform) {
    let mut builder = PathBuilder::new();
    for (i, p) in points.iter().enumerate() {
        if i == 0 { builder.move_to(p[0], p[1]) } else { builder.line_to(p[0], p[1]) }
    }
    let stroke =
        Stroke { width: 2.0 * radius, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
    if let Some(path) = builder.finish() {
        pixmap.stroke_path(&path, &paint_of(color), &stroke, to_pixels, None);
    }
}

/// A closed polygon whose corners are cut by `rounding` and bridged by a curve.
fn rounded(points: &[Point], rounding: f32) -> Option<tiny_skia::Path> {
    let mut builder = PathBuilder::new();
    let n = points.len();
    for i in 0..n {
        let (before, corner, after) = (points[(i + n - 1) % n], points[i], points[(i + 1) % n]);
        let towards = |other: Point| {
            let (dx, dy) = (other[0] - corner[0], other[1] - corner[1]);
            let length = dx.hypot(dy).max(1e-9);
            let cut = rounding.min(length / 2.0) / length;
            [corner[0] + dx * cut, corner[1] + dy * cut]
        };
        let (enter, leave) = (towards(before), towards(after));
        if i == 0 {
            builder.move_to(enter[0], enter[1]);
        } else {
            builder.line_to(enter[0], enter[1]);
        }
        builder.quad_to(corner[0], corner[1], leave[0], leave[1]);
    }
    builder.close();
    builder.finish()
}

type Rgb = [u8; 3];

/// The 256 most used colours as a flat palette, and for every colour used the index of its nearest.
fn shared_palette(frames: &[Frame]) -> (Vec<u8>, HashMap<Rgb, u8>) {
    let mut uses: HashMap<Rgb, u64> = HashMap::new();
    for pixel in frames.iter().flat_map(|f| f.rgba.chunks_exact(4)) {
        *uses.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
    }
    let mut colors: Vec<(Rgb, u64)> = uses.into_iter().collect();
    // By use, then by colour: hash order must not reach the file.
    colors.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let kept: Vec<Rgb> = colors.iter().take(256).map(|(color, _)| *color).collect();
    let distance = |a: &Rgb, b: &Rgb| a.iter().zip(b).map(|(x, y)| i32::from(x.abs_diff(*y)).pow(2)).sum::<i32>();
    let nearest = |color: &Rgb| {
        let best = (0..kept.len()).min_by_key(|&i| distance(&kept[i], color)).unwrap_or(0);
        u8::try_from(best).expect("at most 256 colours are kept")
    };
    let index_of = colors.iter().map(|(color, _)| (*color, nearest(color))).collect();
    (kept.concat(), index_of)
}

/// The smallest rectangle that covers all differences: left, top, width, height; one pixel when there are none.
fn changed(before: &[u8], after: &[u8], width: usize, height: usize) -> (usize, usize, usize, usize) {
    if before.is_empty() {
        return (0, 0, width, height);
    }
    let different = (0..after.len()).filter(|&i| before[i] != after[i]);
    let bounds = different.fold(None, |bounds: Option<[usize; 4]>, i| {
        let (x, y) = (i % width, i / width);
        let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
        Some([left.min(x), top.min(y), right.max(x), bottom.max(y)])
    });
    let [left, top, right, bottom] = bounds.unwrap_or_default();
    (left, top, right - left + 1, bottom - top + 1)
}

#[cfg(test)]
mod tests {
    use super::{Frame, Palette, RasterError, gif as encode_gif, png, render, side_by_side};
    use crate::env::Env;
    use crate::scene::Scene;

    fn picture(env: &dyn Env, side: u32) -> Frame {
        let mut scene = Scene::default();
        env.draw(&mut scene);
        render(&scene, &[], side, side, &Palette::default()).unwrap()
    }

    #[test]
    fn every_task_draws_itself_inside_the_picture_and_the_same_each_time() {
        for spec in crate::specs() {
            let env = crate::make(spec.id).unwrap();
            for side in [48, 200] {
                let frame = picture(env.as_ref(), side);
                let background = Palette::default().background;
                let drawn = frame.rgba.chunks_exact(4).filter(|p| **p != background).count();
                let share = drawn as f64 / f64::from(side * side);
                assert!((0.01..0.7).contains(&share), "{}: {share}", spec.id);
                assert_eq!(frame, picture(env.as_ref(), side));
            }
        }
    }

    #[test]
    fn a_film_decodes_to_the_pictures_it_was_made_of() {
        let mut env = crate::make("pendulum").unwrap();
        let frames: Vec<Frame> = (0..5)
            .map(|i| {
                env.load(&[f64::from(i) * 0.4, 0.0]).unwrap();
                let frame = picture(env.as_ref(), 60);
                side_by_side(&frame, &frame, &Palette::default()).unwrap()
            })
            .collect();
        let bytes = encode_gif(&frames, 5).unwrap();
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(bytes.as_slice()).unwrap();
        let mut canvas = frames[0].rgba.clone();
        let mut count = 0;
        while let Some(part) = decoder.read_next_frame().unwrap() {
            for y in 0..usize::from(part.height) {
                let to = 4 * ((usize::from(part.top) + y) * frames[0].width as usize + usize::from(part.left));
                let len = 4 * usize::from(part.width);
                canvas[to..to + len].copy_from_slice(&part.buffer[y * len..(y + 1) * len]);
            }
            let off = canvas.iter().zip(&frames[count].rgba).map(|(a, b)| a.abs_diff(*b)).max();
            // More than 256 shades of edge pixels share their nearest neighbours.
            assert!(off <= Some(24), "frame {count}: {off:?}");
            count += 1;
        }
        assert_eq!(count, frames.len());
        assert!(png(&frames[0]).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let scene = Scene::default();
        for (w, h) in [(0, 10), (10, 0), (100_000, 10)] {
            assert!(matches!(render(&scene, &[], w, h, &Palette::default()), Err(RasterError::Size { .. })));
        }
        assert!(encode_gif(&[], 5).is_err());
    }
}
