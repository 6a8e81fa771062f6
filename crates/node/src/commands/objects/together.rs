//! Small files, many of which go up in one request.

use std::path::Path;

use fula_client::{Error, FilePut, SMALL_MAX, TOGETHER_MAX};

use super::jobs::{Job, Work, facts};

/// Largest number of jobs that are looked at together.
pub(super) const AT_ONCE: usize = fula_client::CHANGES_MAX;

/// What is carried out at a time.
#[derive(Debug)]
pub(super) enum Unit {
    One(Job),
    /// Small files to one bucket.
    Together(Vec<Job>),
}

/// Returns whether a job can be carried out together with others.
fn is_small(job: &Job) -> bool {
    matches!(job, Job::Up { size, .. } if *size <= SMALL_MAX as u64)
}

/// Puts together the small files of some jobs, whose targets are in one bucket.
pub(super) fn units(jobs: Vec<Job>) -> Vec<Unit> {
    let (small, mut units): (Vec<Job>, Vec<Unit>) = (Vec::new(), Vec::new());
    let (mut together, mut bytes) = (small, 0);
    for job in jobs {
        match &job {
            Job::Up { size, .. } if is_small(&job) => {
                if bytes + size > TOGETHER_MAX as u64 {
                    units.push(Unit::Together(std::mem::take(&mut together)));
                    bytes = 0;
                }
                bytes += size;
                together.push(job);
            }
            _ => units.push(Unit::One(job)),
        }
    }
    if !together.is_empty() {
        units.push(Unit::Together(together));
    }
    units
}

/// Returns jobs that are carried out one by one.
pub(super) fn alone(jobs: Vec<Job>) -> Vec<Unit> {
    jobs.into_iter().map(Unit::One).collect()
}

/// Returns whether some jobs have small files, so that it matters whether the server takes them together.
pub(super) fn have_small(jobs: &[Job]) -> bool {
    jobs.iter().filter(|job| is_small(job)).count() > 1
}

impl Work {
    /// Carries out a unit, and reports each of its files.
    pub(super) async fn run_unit(&self, unit: Unit) {
        match unit {
            Unit::One(job) => self.run(job).await,
            Unit::Together(jobs) => self.run_together(jobs).await,
        }
    }

    async fn run_together(&self, jobs: Vec<Job>) {
        let files: Vec<(FilePut, String)> = jobs.iter().filter_map(file).collect();
        let Some((_, bucket)) = files.first() else { return };
        let bucket = self.client.bucket(bucket);
        let files = files.into_iter().map(|(file, _)| file).collect();
        let done = match bucket {
            Ok(bucket) => bucket.put_files(files, Some(&self.progress.moved)).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(results) => {
                for (job, result) in jobs.iter().zip(results) {
                    let done = match (result, job) {
                        (Ok(_), Job::Up { path, .. }) if self.is_move => remove(path),
                        (result, _) => result.map(drop),
                    };
                    self.tell(job, done.as_ref().map(drop));
                }
            }
            Err(error) => jobs.iter().for_each(|job| self.tell(job, Err(&error))),
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    std::fs::remove_file(path).map_err(Error::io(path.display().to_string()))
}

/// Returns a file as it is put, and its bucket.
fn file(job: &Job) -> Option<(FilePut, String)> {
    let Job::Up { path, modified, to, .. } = job else { return None };
    let (content_type, metadata) = facts(to, *modified);
    let file = FilePut { path: path.clone(), key: to.key.clone(), content_type, metadata };
    Some((file, to.bucket.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::objects::place::Remote;

    #[test]
    fn small_files_come_together_within_bounds() {
        let up = |size: usize| Job::Up {
            path: Path::new("f").to_owned(),
            size: size as u64,
            modified: None,
            to: Remote { bucket: "b".to_owned(), key: "k".to_owned() },
        };
        let shape = |sizes: &[usize]| -> Vec<usize> {
            let units = units(sizes.iter().map(|size| up(*size)).collect());
            let count = |unit: &Unit| match unit {
                Unit::One(_) => 0,
                Unit::Together(jobs) => jobs.len(),
            };
            units.iter().map(count).collect()
        };
        assert_eq!(shape(&[1, SMALL_MAX + 1, 2]), [0, 2]);
        assert_eq!(shape(&[SMALL_MAX; 20]), [16, 4]);
        assert!(shape(&[]).is_empty());
        assert!(have_small(&[up(1), up(2)]) && !have_small(&[up(1), up(SMALL_MAX + 1)]));
    }
}
